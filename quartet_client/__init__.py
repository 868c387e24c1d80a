"""A client of Quartet's HTTP interfaces: NumPy in and out, binary, with deadlines, and retries where they are safe.

    from quartet_client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.infer("spirals-mlp", {"features": np.array([[0.1, 0.2]], np.float32)})["logits"]
        client.predict("spirals-mlp", [[0.1, 0.2]])[0].label

`AsyncClient` has the same methods as coroutines. Needs httpx2 and NumPy, and nothing else of Quartet.
"""

from quartet_client.answers import Metadata, Outputs, Prediction, Predictions, Tensor
from quartet_client.clients import AsyncClient, Client
from quartet_client.errors import (
    ClientError,
    DeadlineExceeded,
    Forbidden,
    InvalidAnswer,
    InvalidRequest,
    NotFound,
    Overloaded,
    Refusal,
    ServerError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unprocessable,
    Unreachable,
)

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidAnswer",
    "InvalidRequest",
    "Metadata",
    "NotFound",
    "Outputs",
    "Overloaded",
    "Prediction",
    "Predictions",
    "Refusal",
    "ServerError",
    "Tensor",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unprocessable",
    "Unreachable",
]
