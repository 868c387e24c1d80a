"""The four families. Each file is readable alone; this one only knows their names."""

from __future__ import annotations

from modelrepo.tasks import Task
from training.data.dataset import DataError, Kind
from training.models.base import Model
from training.models.cnn import CNN, CNNConfig
from training.models.lstm import LSTM, LSTMConfig
from training.models.mlp import MLP, MLPConfig
from training.models.transformer import Transformer, TransformerConfig

__all__ = ["FAMILIES", "CNNConfig", "LSTMConfig", "MLPConfig", "Model", "ModelConfig", "TransformerConfig", "build", "family_of"]

ModelConfig = MLPConfig | CNNConfig | LSTMConfig | TransformerConfig

FAMILIES: dict[str, tuple[type[Model], type[ModelConfig]]] = {
    "mlp": (MLP, MLPConfig),
    "cnn": (CNN, CNNConfig),
    "lstm": (LSTM, LSTMConfig),
    "transformer": (Transformer, TransformerConfig),
}


def family_of(config: ModelConfig) -> str:
    """The name of the family a config belongs to."""
    return next(name for name, (_, kind) in FAMILIES.items() if type(config) is kind)


def build(config: ModelConfig, data: Kind, task: Task) -> Model:
    """A freshly initialised model. Raises DataError where the family does not read that kind of data."""
    name = family_of(config)
    model = FAMILIES[name][0]
    if not isinstance(data, model.kinds):
        suited = [other for other, (cls, _) in FAMILIES.items() if isinstance(data, cls.kinds)]
        reads, found = " and ".join(kind.__name__.lower() for kind in model.kinds), type(data).__name__.lower()
        raise DataError(f"the {name} family reads {reads}, this data is {found}: use {' or '.join(suited)}")
    return model(config, data, task)
