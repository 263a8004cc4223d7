# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
# aws-lc is C and built with cmake.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Dependencies change seldom: a layer of their own, built around an empty crate.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
RUN mkdir -p src benches/micro benches/waypoint benches/ztunnel && touch src/lib.rs \
 && echo 'fn main() {}' | tee src/main.rs benches/micro/main.rs benches/waypoint/main.rs > benches/ztunnel/main.rs \
 && cargo build --release --locked \
 && rm -rf src
COPY src src
# The demo carries its manifests along.
COPY config config
# cargo compares times, and COPY keeps those of the checkout.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="cairn" \
      org.opencontainers.image.description="An ambient service-mesh data plane: waypoint and ztunnel in one binary" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/release/cairn /usr/local/bin/cairn
# Istio's DaemonSet mounts what it names relative to this: ./etc/istio/config/mesh.
WORKDIR /
# In shared mode a ztunnel runs as uid 0, which the DaemonSet says itself.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/cairn"]
