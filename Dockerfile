# The image of MLMS: static binaries, no shell, no package manager, a user without rights.
#
#   docker build -t mlms .
#   docker run --rm -p 8080:8080 mlms          # the whole service in one container, http://localhost:8080
#
# Debian's glibc has looked names up without shared libraries since 2.34, so that a static binary resolves as usual.
ARG RUST_VERSION=1.95
FROM rust:${RUST_VERSION}-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates cmake g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The target is named so that build scripts and macros, which cannot be static, stay as they are.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --locked --profile dist --target "$target" --package mlms --package loadtest \
    && mkdir -p /out/data /out/tmp \
    && cp "target/$target/dist/mlms" "target/$target/dist/loadtest" /out/

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mlms" \
      org.opencontainers.image.description="MLMS, the multi lobby message service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/mlms /out/loadtest /
# The standalone role keeps its database here.
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 /out/tmp /tmp
USER 65532:65532
# Inside a container loopback is reached by nobody. Other roles are told their addresses by whoever starts them.
ENV MLMS_LISTEN=0.0.0.0:8080 MLMS_DATA_DIR=/data
VOLUME /data
EXPOSE 8080 8090 9080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/mlms"]
