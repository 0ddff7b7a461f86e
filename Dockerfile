# allq in a container. Two targets from one recipe:
#
#   docker build --target cpu  -t allq:cpu  --build-arg TORCH_INDEX_URL=... .
#   docker build --target cuda -t allq:cuda .
#
# TORCH_INDEX_URL is the package index of PyTorch's CPU-only builds, as PyTorch's own installation page gives it for
# pip and "CPU". Without it the cpu image works too, but carries the CUDA libraries that torch's default build brings
# along (some GB). For the same reason the cuda target needs no CUDA base image: only the host needs the driver and the
# NVIDIA container toolkit.
#
# The image runs as an ordinary user, with a read-only root file system if wanted: it writes to ALLQ_HOME and /tmp only.

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

# --- what allq needs, apart from allq: a change of the code leaves these layers alone -------------------------------
FROM base AS requirements
COPY pyproject.toml /tmp/pyproject.toml
RUN python -c "import tomllib; print(*tomllib.load(open('/tmp/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /requirements.txt

FROM base AS dependencies-cpu
ARG TORCH_INDEX_URL=""
COPY --from=requirements /requirements.txt /requirements.txt
RUN python -m venv /opt/allq \
    && /opt/allq/bin/pip install ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r /requirements.txt

FROM base AS dependencies-cuda
COPY --from=requirements /requirements.txt /requirements.txt
RUN python -m venv /opt/allq \
    && /opt/allq/bin/pip install -r /requirements.txt

# --- allq itself, as the wheel that anyone would install ------------------------------------------------------------
FROM base AS wheel
COPY . /src
RUN python -m pip wheel --no-deps --wheel-dir /wheels /src

# --- what is common to both images ----------------------------------------------------------------------------------
FROM base AS runtime
LABEL org.opencontainers.image.title="allq" \
      org.opencontainers.image.description="Batch screening of blood-smear slides for acute lymphoblastic leukaemia. Research use, decision support." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 allq \
    && useradd --uid 10001 --gid allq --no-create-home --home-dir /var/lib/allq --shell /usr/sbin/nologin allq \
    && install --directory --owner=allq --group=allq --mode=0750 /var/lib/allq /var/lib/allq-key /var/lib/allq-ledger
ENV PATH=/opt/allq/bin:$PATH \
    HOME=/var/lib/allq \
    ALLQ_HOME=/var/lib/allq \
    ALLQ_LOG_FORMAT=json
# Nobody may write here: `.env` is read from this folder, and Python takes modules from it when it is told to run a line.
WORKDIR /
# A worker gives its chunk back or finishes it on SIGTERM; give it the time that docker-compose.yml gives it.
STOPSIGNAL SIGTERM
# Whether the database answers and has the schema that this code needs. docker-compose.yml asks more of a worker.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s CMD ["allq", "status", "--json"]
ENTRYPOINT ["allq"]
CMD ["--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# torch compiles the network with it when a worker starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=dependencies-cuda /opt/allq /opt/allq
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/allq/bin/pip install --no-deps /wheels/*.whl
VOLUME /var/lib/allq
USER 10001:10001

FROM runtime AS cpu
ENV ALLQ_DEVICE=cpu
COPY --from=dependencies-cpu /opt/allq /opt/allq
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/allq/bin/pip install --no-deps /wheels/*.whl
VOLUME /var/lib/allq
USER 10001:10001
