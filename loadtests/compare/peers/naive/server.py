"""What most people write first: FastAPI, pydantic, the session in the thread pool, no batching."""

from __future__ import annotations

from typing import Any

import uvicorn
from fastapi import FastAPI
from network import PORT, WORKERS, Network
from pydantic import BaseModel, create_model

network = Network()
Row: Any = int if network.dtype == "int64" else float
for _ in network.shape[1:]:
    Row = list[Row]
Instances = create_model("Instances", instances=(list[Row], ...))


class Predictions(BaseModel):
    """A row of outputs per instance."""

    predictions: list[list[float]]


app = FastAPI()


def predict(body: Any) -> Predictions:
    """Answer; a plain function, which FastAPI runs in its thread pool."""
    return Predictions(predictions=network.rows(body.instances))


predict.__annotations__ = {"body": Instances, "return": Predictions}
app.post("/predict")(predict)

if __name__ == "__main__":
    uvicorn.run("server:app", port=PORT, workers=WORKERS, loop="uvloop", http="httptools", access_log=False, log_level="warning")
