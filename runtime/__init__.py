"""One Session interface over ONNX Runtime and TensorRT, used by the service and by export's parity check alike:

what was verified is what serves. Never imports torch.
"""
