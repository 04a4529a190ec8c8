// The page is painted first; then it lives.
requestAnimationFrame(() => setTimeout(() => import("./app.js")));
