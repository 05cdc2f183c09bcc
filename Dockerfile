# rloss for any machine, with GPUs or without. Dockerfile.a100 is its twin for A100; docker/ holds what both do.
#
#     docker build -t rloss:latest .
#
# Without GPU, and a few GB smaller: --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG BASE_IMAGE=ubuntu:24.04

FROM ${BASE_IMAGE} AS packages
ENV PATH=/opt/venv/bin:$PATH HOME=/home/rloss USER=rloss SHELL=/bin/bash PYTHONUNBUFFERED=1 RLOSS_CONTAINER=1
WORKDIR /workspace
COPY docker/install.sh /opt/rloss/
RUN /opt/rloss/install.sh system
COPY requirements.txt requirements-dev.txt requirements-app.txt ./
ARG TORCH_INDEX_URL=
RUN /opt/rloss/install.sh packages

FROM packages AS filter
COPY wrapper/bilateralfilter bilateralfilter
RUN /opt/rloss/install.sh wheel

FROM packages
# Downloaded weights stay with the results. The second variable is for `docker run --gpus`.
ENV TORCH_HOME=/workspace/run/.torch NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=filter /wheels /wheels
COPY docker/entrypoint.sh /opt/rloss/
COPY . .
RUN /opt/rloss/install.sh filter
USER 1000
ENTRYPOINT ["tini", "--", "/opt/rloss/entrypoint.sh"]
CMD ["bash"]
