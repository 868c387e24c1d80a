"""One Session interface over ONNX Runtime and TensorRT. Never imports torch.

The service and export's parity check use the same one, so what was verified is what serves.
"""

import os

# ONNX Runtime writes a device id below the home folder and reports to its makers, unless told before its import not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
