"""One Session interface over ONNX Runtime and TensorRT, used by the service and by export's parity check alike:

what was verified is what serves. Never imports torch.
"""

import os

# ONNX Runtime writes a device id below the home folder and reports to its makers, unless told before its import not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
