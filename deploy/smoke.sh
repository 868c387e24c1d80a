#!/usr/bin/env bash
# deploy/smoke.sh [REPOSITORY]: build the image for CPUs and ask of real containers what it promises (loadtests/smoke.py).
# DOCKER names another command, BUILD_OPTIONS go to its build. Skipped, with status 0, where no engine answers.
set -euo pipefail
cd "$(dirname "$0")/.."
docker=${DOCKER:-docker}
if ! reason=$("$docker" version --format '{{.Server.Version}}' 2>&1); then
    echo "smoke: skipped, as no Docker engine answers \`$docker version\`: $(tail -n 1 <<<"$reason")"
    exit 0
fi
if "$docker" compose version >/dev/null 2>&1; then
    "$docker" compose --file deploy/compose.yaml config --quiet
    "$docker" compose --file deploy/compose.yaml --file deploy/compose.gpu.yaml config --quiet
fi
image=quartet:smoke
# shellcheck disable=SC2086  # several options
DOCKER_BUILDKIT=1 "$docker" build ${BUILD_OPTIONS:-} --file deploy/docker/Dockerfile --target cpu --tag "$image" .
exec "${PYTHON:-python3}" -m loadtests.smoke "$image" --docker "$docker" --repository "${1:-models}"
