# candle_tf for training on a CPU:
#     docker build -t candle_tf .
#     docker run --rm -v "$PWD/runs:/data/runs" -v "$PWD/images:/data/images:ro" candle_tf \
#         --dataset=folder --data_dir=images --run_dir=runs/images
# This file has not been run: no container engine was at hand where it was written.
FROM python:3.11-slim

# The native operators are compiled where they are first used.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /opt/candle_tf/
RUN python -m pip install --no-cache-dir -r /opt/candle_tf/requirements.txt
COPY . /opt/candle_tf
RUN python -m pip install --no-cache-dir --no-deps /opt/candle_tf
WORKDIR /data
ENTRYPOINT ["candle-train"]
