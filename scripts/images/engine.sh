# shellcheck shell=bash
# What builds and runs images: ENGINE, else the first of docker, podman and buildah that works here.
#
# docker and podman are used as they are set up. buildah keeps its images in .images, so that one `rm -rf` ends them, and
# works where neither of the other two can: without a daemon, and inside a container.
IMAGES="$PWD/.images"
if [ -z "${ENGINE:-}" ]; then
  ENGINE=buildah
  for engine in docker podman; do
    if "$engine" info >/dev/null 2>&1; then ENGINE=$engine && break; fi
  done
fi
mkdir -p "$IMAGES"
if [ "$ENGINE" = buildah ]; then
  export BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF="$IMAGES/storage.conf"
  printf '[storage]\ndriver = "%s"\ngraphroot = "%s"\nrunroot = "%s"\n' \
    "${STORAGE_DRIVER:-overlay}" "$IMAGES/storage" "$IMAGES/run" >"$CONTAINERS_STORAGE_CONF"
fi

VERSION=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The name of the image of a target: diorama-cpu:0.1.0, diorama-client:0.1.0-arm64; REPOSITORY is what stands before -cpu.
image_of() {
  local architecture=${PLATFORM:-}
  architecture=${architecture#linux/}
  echo "${REPOSITORY:-diorama}-$1:$VERSION${architecture:+-$architecture}"
}
