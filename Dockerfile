# One image for all of Kubernetes: heads, workers, what submits, the MLflow server (docs/cluster.md).
#
#   docker build --build-arg APOLLO_COMMIT=$(git rev-parse HEAD) --tag registry.example/apollo:0.1.0 .
FROM python:3.11.14-slim-bookworm

# wget: KubeRay asks with it whether a node is well. ffmpeg with LAME comes with imageio-ffmpeg, libsndfile with soundfile.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home apollo

WORKDIR /apollo
COPY requirements.txt requirements-pipeline.txt ./
RUN pip install --no-cache-dir --requirement requirements-pipeline.txt

COPY pyproject.toml README.md ./
COPY apollo apollo
COPY pipelines pipelines
RUN pip install --no-cache-dir --no-deps . && rm -rf build

COPY jobs jobs
COPY kubernetes/job.sh kubernetes/job.sh

# Of the tag of training runs: there is no git here.
ARG APOLLO_COMMIT=unknown
ENV APOLLO_COMMIT=$APOLLO_COMMIT GIT_PYTHON_REFRESH=quiet

USER 1000:1000
