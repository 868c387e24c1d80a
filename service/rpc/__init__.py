"""gRPC: the Open Inference Protocol on a port of its own, over the same models, queues and metrics as HTTP."""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before grpc is loaded: it would print a line whenever a program is started
