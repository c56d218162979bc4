# Two images from one file:
#   docker build --target spark   .   jobs for spark-submit; no torch
#   docker build --target indexer .   everything: nightly, distill, build, query
FROM python:3.11-slim AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless || apt-get install --yes --no-install-recommends openjdk-21-jre-headless \
    && rm -rf /var/lib/apt/lists/*
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY constraints.txt ./

FROM base AS spark
RUN pip install --constraint constraints.txt pyspark numpy faiss-cpu onnxruntime tokenizers boto3 pyarrow pandas scipy click jinja2 markupsafe threadpoolctl tqdm cryptography
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY indexer indexer
COPY spark spark
COPY jobs jobs
RUN pip install --no-deps .
RUN useradd --create-home job
USER job
ENTRYPOINT ["spark-submit"]

FROM base AS indexer
# A CPU build of torch is a tenth of the size: pass its index as PIP_EXTRA_INDEX_URL.
ARG PIP_EXTRA_INDEX_URL
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY indexer indexer
COPY spark spark
COPY jobs jobs
RUN pip install --constraint constraints.txt '.[all]'
RUN useradd --create-home job
USER job
ENTRYPOINT ["indexer"]
