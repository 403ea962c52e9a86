# Two stages: the wheel is built with the build tools, the runtime has none of them.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY daemon ./daemon
COPY validation ./validation
COPY db ./db
RUN python -m pip wheel --no-cache-dir --constraint constraints.txt --wheel-dir /wheels ".[cluster,dicomweb]"

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Voxtrial" \
      org.opencontainers.image.description="DICOM-native batch daemon for the clinical validation of imaging AI" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 11112 voxtrial \
 && useradd --system --uid 11112 --gid voxtrial --home-dir /var/lib/voxtrial --create-home voxtrial
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-index --find-links /wheels "voxtrial[cluster,dicomweb]"
COPY deploy/voxtrial.toml /usr/share/voxtrial/voxtrial.toml
ENV PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/lib/voxtrial/.cache/numba \
    MPLCONFIGDIR=/var/lib/voxtrial/.cache/matplotlib
USER voxtrial
WORKDIR /var/lib/voxtrial
VOLUME /var/lib/voxtrial
EXPOSE 11112 8080
ENTRYPOINT ["voxtrial"]
CMD ["serve", "--config", "/etc/voxtrial/voxtrial.toml"]
