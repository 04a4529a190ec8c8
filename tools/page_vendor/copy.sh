#!/usr/bin/env bash
# Renews what the gateway's page has of others, by package-lock.json: as it was published, with its licences.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --silent --no-audit --no-fund
from=node_modules
to=../../producers/gateway/page/vendor
rm -rf "$to"
mkdir -p "$to"/{marked,dompurify,highlight/languages}
cp "$from"/marked/{lib/marked.esm.js,LICENSE} "$to/marked"
cp "$from"/dompurify/{dist/purify.min.js,LICENSE} "$to/dompurify"
cp "$from"/@highlightjs/cdn-assets/{es/core.min.js,LICENSE} "$to/highlight"
# Those that code.js knows: a line a grammar, `name: "aliases"`.
for name in $(sed -n '/^const GRAMMARS/,/^};/p' "$to/../code.js" | grep -oE '[a-z]+:' | tr -d :); do
    cp "$from/@highlightjs/cdn-assets/es/languages/$name.min.js" "$to/highlight/languages"
done
chmod -R u=rwX,go=rX "$to"
