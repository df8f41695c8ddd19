# One worker, or any other command of crm-streams; runs as a user without rights.

FROM python:3.11.14-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/crm-streams
COPY requirements.lock /src/
RUN /opt/crm-streams/bin/pip install --require-hashes -r /src/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY streams /src/streams
COPY operators /src/operators
COPY state /src/state
RUN /opt/crm-streams/bin/pip install --no-deps /src

FROM python:3.11.14-slim-bookworm
# What numba compiles is kept with the state, where the user may write.
ENV PATH=/opt/crm-streams/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CRM_DATA_DIR=/var/lib/crm-streams/state \
    NUMBA_CACHE_DIR=/var/lib/crm-streams/kernels
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin crm \
    && install -d -o crm -g crm /var/lib/crm-streams
COPY --from=build /opt/crm-streams /opt/crm-streams
USER 10001
VOLUME /var/lib/crm-streams
EXPOSE 6066
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:6066/readyz', timeout=2)"]
ENTRYPOINT ["crm-streams"]
CMD ["worker"]
