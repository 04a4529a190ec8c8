import { defineConfig } from "vite";

// One file of each kind with relative paths, so that a browser can open it from the disk.
export default defineConfig({
  base: "./",
  define: { "process.env": {}, global: "globalThis" },
  esbuild: { jsx: "automatic" },
  build: { target: "esnext", chunkSizeWarningLimit: 20000, modulePreload: false },
});
