"""Apollo: restoration of lossy music. Needs torch alone; the data pipeline lives in `pipelines`."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("apollo-restoration")
except PackageNotFoundError:  # run from a checkout that nobody installed
    __version__ = "0+unknown"
