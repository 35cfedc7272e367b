# The virtual environment is built in one stage and copied into the next, so that pip's caches stay behind.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/coordinator
COPY requirements-runtime.lock ./
RUN /opt/coordinator/bin/pip install --no-cache-dir --require-hashes -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY coordinator coordinator
COPY tasks tasks
# What installed it stays behind: nothing that runs needs it, and its own holes would be the image's.
RUN /opt/coordinator/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/coordinator/bin/pip uninstall --yes --quiet setuptools pip

FROM python:3.11-slim
# A number, not a name: Kubernetes can check only a number to be another user than root.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin coordinator \
    && install -d -o 10001 -g 10001 /data /secrets
COPY --from=build /opt/coordinator /opt/coordinator
# numpy must not start a thread per core in every worker slot.
ENV PATH=/opt/coordinator/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    COORDINATOR_DATA_DIR=/data
WORKDIR /app
COPY celeryconfig.py flowerconfig.py ./
USER 10001
VOLUME /data
ENTRYPOINT ["celery", "-A", "tasks"]
CMD ["worker", "--loglevel=INFO"]
