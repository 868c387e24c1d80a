#!/bin/sh
# install-locked FILE [--slim]: install what a locked file names, and nothing else, into /opt/quartet.
# --slim leaves out tests and what ONNX Runtime brings for those who make models: some 25 MB that serving never loads.
set -eu
/opt/tools/bin/pip --python /opt/quartet/bin/python install --require-hashes --no-deps --requirement "$1"
if [ "${2:-}" = --slim ]; then
    packages=$(/opt/quartet/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    find "$packages" -type d -name tests -prune -exec rm -r {} +
    for part in backend datasets quantization tools transformers; do rm -r "$packages/onnxruntime/$part"; done
fi
