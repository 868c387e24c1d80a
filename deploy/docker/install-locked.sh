#!/bin/sh
# install-locked FILE [--slim]: install what a locked file names, and nothing else, into /opt/quartet.
# --slim leaves out some 110 MB that serving never loads: tests, what ONNX Runtime brings for those who make models or embed it
# in C++, the descriptions of Amazon's services other than the store, and symbols for debuggers.
set -eu
/opt/tools/bin/pip --python /opt/quartet/bin/python install --require-hashes --no-deps --requirement "$1"
if [ "${2:-}" = --slim ]; then
    cd "$(/opt/quartet/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    find . -type d -name tests -prune -exec rm -r {} +
    for part in backend datasets quantization tools transformers; do rm -r "onnxruntime/$part"; done
    # Python's module holds the same code; only the providers for GPUs may look for it.
    [ -e onnxruntime/capi/libonnxruntime_providers_cuda.so ] || rm onnxruntime/capi/libonnxruntime.so.*
    find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name 'sso*' ! -name sts ! -name signin -exec rm -r {} +
    # Not NumPy's and Pillow's, whose libraries were moved after they were linked, and not NVIDIA's.
    for package in aiohttp cryptography frozenlist httptools multidict tokenizers uvloop; do
        find "$package" -name '*.so' -exec strip --strip-unneeded {} +
    done
fi
