"""The contract between the three programs: what a published model version is, on disk and in memory.

`training` describes a model with a :class:`~modelrepo.tensors.Signature` and a task, `export` publishes it as a version,
`service` opens that version. This package holds numpy, the standard library and pydantic, and nothing else: whoever wants
to read a Quartet repository needs no torch, no ONNX and no web framework. URLs and signatures need the extras `remote` and `sign`.
"""
