"""Data preparation, training, evaluation and restoration as jobs on Ray, around the model in `apollo`."""

from importlib.util import find_spec

_PACKAGES = ("jsonargparse", "mlflow", "pyarrow", "ray")  # of the extra `pipeline`: where these are, all are

if _missing := [name for name in _PACKAGES if find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"pipelines needs {', '.join(_missing)}: pip install 'apollo-restoration[pipeline]'", name=_missing[0]
    )
