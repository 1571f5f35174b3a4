# The recipe with its environment, nothing is installed at run time:
#   docker build -t avsep .                             about 6 GB, for NVIDIA GPUs and for CPUs
#   docker build -t avsep --build-arg TORCH=cpu .       without the CUDA libraries
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" avsep ./separate.sh /data/video.mp4 --out_dir /data/separated
# With a GPU: docker run --gpus all (NVIDIA's container toolkit); training wants --shm-size 8g.
FROM python:3.12-slim AS environment
ARG TORCH=cuda
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /avsep
COPY requirements.txt requirements-video.txt requirements-onnxruntime.txt ./
RUN python3 -m venv /opt/venv && \
    if [ "$TORCH" = cpu ]; then \
        grep -E '^(torch|torchaudio)==' requirements.txt >torch.txt && \
        /opt/venv/bin/pip install --no-cache-dir -r torch.txt --index-url "$TORCH_CPU_INDEX"; \
    fi && \
    /opt/venv/bin/pip install --no-cache-dir -r requirements.txt && \
    /opt/venv/bin/pip install --no-cache-dir --no-deps -r requirements-video.txt

FROM python:3.12-slim
COPY --from=environment /opt/venv /opt/venv
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH
RUN useradd --create-home avsep && mkdir -p /avsep/dump /avsep/exp /avsep/data && chmod a+rwx /avsep/dump /avsep/exp /avsep/data
COPY . /avsep
RUN cd /avsep && python3 -m utils.video.network_files
# torch asks for the name of the user, and one given by --user has none.
ENV USER=avsep
USER avsep
WORKDIR /avsep
CMD ["./separate.sh", "--help"]
