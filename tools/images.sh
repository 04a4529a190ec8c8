#!/usr/bin/env bash
# Builds the two images and names them in k3s/images, which every overlay takes them from. `make images` runs this.
#
#   make images REGISTRY=registry.local:5000     # both architectures, pushed; k3s/images names their digests
#   make images PLATFORMS=linux/arm64            # no registry: one archive, for `k3s ctr images import` on each node
#
# TAG (the version of pyproject.toml), ENGINE (docker, else podman), INSECURE=1 (a registry without TLS), DRY_RUN=1 (say, do
# not do), SOURCE (a URL for the images' label). Nothing runs emulated: k3s/Dockerfile cross-compiles.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'turnpike: %s\n' "$*"; }
die() { printf 'turnpike: %s\n' "$*" >&2; exit 1; }
run() {
    if [ -n "${DRY_RUN:-}" ]; then printf '+ %s\n' "$*"; else "$@"; fi
}

registry=${REGISTRY:-}
name=${registry:-localhost}/turnpike
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${TAG:-$version}
case "$(uname -m)" in aarch64 | arm64) own=linux/arm64 ;; *) own=linux/amd64 ;; esac
platforms=${PLATFORMS:-$([ -n "$registry" ] && echo linux/amd64,linux/arm64 || echo "$own")}
for platform in ${platforms//,/ }; do
    case "$platform" in
        linux/amd64 | linux/arm64) ;;
        *) die "PLATFORMS may be linux/amd64, linux/arm64 or both with a comma between them, not '$platform'" ;;
    esac
done
[ -n "$registry" ] || [ "${platforms#*,}" = "$platforms" ] ||
    die "without a registry an archive has one platform: run it once for each of PLATFORMS=$platforms"
engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for engine in docker podman none; do command -v "$engine" >/dev/null && break; done
fi
case "$engine" in
    docker | podman) ;;
    none) die "neither docker nor podman was found; either builds the images" ;;
    *) die "ENGINE is docker or podman, not '$engine'" ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
arguments=(--platform "$platforms" --file k3s/Dockerfile --build-arg "VERSION=$version")
arguments+=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
[ -z "${SOURCE:-}" ] || arguments+=(--label "org.opencontainers.image.source=$SOURCE")
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
[ -z "${BUILD_BASE:-}" ] || arguments+=(--build-arg "BUILD_BASE=$BUILD_BASE")

# docker's own builder makes no image for two architectures: one in a container does.
if [ "$engine" = docker ] && [ -n "$registry" ] && [ "$(docker buildx inspect 2>/dev/null | awk '/^Driver:/ { print $2 }')" = docker ]; then
    docker buildx inspect turnpike >/dev/null 2>&1 ||
        run docker buildx create --name turnpike --driver docker-container --driver-opt network=host
    arguments+=(--builder turnpike)
fi

# Builds a target, pushes it where there is a registry, and leaves its digest in the scratch folder.
build() {
    local target=$1 image=$name:$tag-$1
    case "$engine${registry:+-push}" in
        docker) run docker buildx build "${arguments[@]}" --target "$target" --tag "$image" --load . ;;
        podman) run podman build "${arguments[@]}" --target "$target" --tag "$image" . ;;
        docker-push)
            run docker buildx build "${arguments[@]}" --target "$target" --tag "$image" \
                --output "type=registry${INSECURE:+,registry.insecure=true}" --metadata-file "$scratch/$target.json" .
            [ -n "${DRY_RUN:-}" ] ||
                sed -n 's/.*"containerimage.digest": *"\(sha256:[0-9a-f]*\)".*/\1/p' "$scratch/$target.json" >"$scratch/$target"
            ;;
        podman-push)
            # A manifest list of an earlier run would keep that run's images.
            ! podman manifest exists "$image" 2>/dev/null || run podman manifest rm "$image"
            run podman build "${arguments[@]}" --target "$target" --manifest "$image" .
            run podman manifest push --all ${INSECURE:+--tls-verify=false} --digestfile "$scratch/$target" "$image" "docker://$image"
            ;;
    esac
}

# What the overlays run: by digest from a registry, by tag where the nodes were given an archive.
name_images() {
    cat <<END
# Which images every overlay runs; \`make images\` writes this file (docs/deployment.md, "Images").
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
images:
END
    for target in base worker; do
        printf -- '  - name: turnpike/%s\n    newName: %s\n' "$target" "$name"
        if [ -n "$registry" ]; then
            printf '    digest: %s # %s-%s\n' "$(cat "$scratch/$target")" "$tag" "$target"
        else
            printf '    newTag: %s-%s\n' "$tag" "$target"
        fi
    done
}

build base
build worker
if [ -n "$registry" ] && [ -z "${DRY_RUN:-}" ]; then
    for target in base worker; do
        grep -qx 'sha256:[0-9a-f]\{64\}' "$scratch/$target" || die "$engine told no digest of $name:$tag-$target"
    done
fi
if [ -n "${DRY_RUN:-}" ]; then
    say "would name $name:$tag-{base,worker} in k3s/images/kustomization.yaml"
else
    name_images >"$scratch/images"
    cp "$scratch/images" k3s/images/kustomization.yaml
    say "k3s/images/kustomization.yaml names $name:$tag-{base,worker}"
fi
if [ -z "$registry" ]; then
    archive=.cache/images/turnpike-$tag-${platforms#linux/}.tar
    mkdir -p "${archive%/*}"
    rm -f "$archive"
    images=("$name:$tag-base" "$name:$tag-worker")
    case "$engine" in
        docker) run docker save --output "$archive" "${images[@]}" ;;
        podman) run podman save --multi-image-archive --output "$archive" "${images[@]}" ;;
    esac
    say "on each node: sudo k3s ctr images import - <$archive"
fi
