# memnets in a container:
#   docker build -t memnets .
#   docker run --rm -v "$PWD/runs:/work/runs" memnets fit --config copying/ntm
# For NVIDIA GPUs, with the wheels of PyTorch for a version of CUDA:
#   docker build -t memnets:cuda --build-arg TORCH=cu130 .
#   docker run --rm --gpus all -v "$PWD/runs:/work/runs" memnets:cuda fit --config copying/ntm --trainer.accelerator=gpu
FROM python:3.11-slim-bookworm AS build
# cpu, or a version of CUDA: https://download.pytorch.org/whl/
ARG TORCH=cpu
# Extras of the package, such as translation,geometry.
ARG EXTRAS=all
WORKDIR /source
RUN python -m venv /opt/memnets
ENV PATH=/opt/memnets/bin:$PATH
# PyTorch first: it changes rarely, so later builds take it from the cache.
COPY constraints.txt ./
RUN version=$(sed -n 's/^torch==//p' constraints.txt) \
    && pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${TORCH}" "torch==${version}"
COPY . .
# Without the constraint of PyTorch, so that the build above is kept.
RUN sed '/^torch==/d' constraints.txt > /tmp/constraints.txt \
    && pip install --no-cache-dir -c /tmp/constraints.txt ".[${EXTRAS}]"

FROM python:3.11-slim-bookworm
# A C++ compiler: the compiled operators are built when they are first needed.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 memnets \
    && mkdir /work \
    && chown memnets /work
COPY --from=build /opt/memnets /opt/memnets
ENV PATH=/opt/memnets/bin:$PATH PYTHONUNBUFFERED=1
USER memnets
WORKDIR /work
# Signals reach memnets itself, so a training that is stopped leaves a checkpoint.
ENTRYPOINT ["memnets"]
CMD ["--help"]
