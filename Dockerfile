# The README's first command as an image:
#     docker build -t dro-trl .                              # for CPUs
#     docker build -t dro-trl --build-arg DEVICE=cuda .      # for NVIDIA GPUs (docker run --gpus all …)
#     docker run --rm -v "$PWD:/work" --user "$(id -u)" dro-trl train --config RECIPE.yaml
# Without a command it runs the quickstart.
ARG DEVICE=cpu

FROM python:3.11-slim AS cpu
# Without it, pip takes PyPI's torch, which brings gigabytes of CUDA's libraries.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM python:3.11-slim AS cuda

FROM ${DEVICE}
ENV PIP_NO_CACHE_DIR=1
WORKDIR /opt/dro-trl
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY dro_trl dro_trl
COPY recipes recipes
RUN python3 -m venv .venv && .venv/bin/pip install -c constraints.txt '.[gemma]'
# Whoever runs it can write its home: the cache of models, whatever `--user` says.
ENV PATH=/opt/dro-trl/.venv/bin:$PATH HOME=/home/any
RUN mkdir -m 1777 /home/any /work
WORKDIR /work
USER 1000
ENTRYPOINT ["dro-trl"]
CMD ["quickstart"]
