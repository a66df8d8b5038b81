# syntax=docker/dockerfile:1
# The image: one static program and its license. docs/image.md tells how it is built, and what is in it.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,id=target-$TARGETARCH \
    image/build "$TARGETARCH" /out

FROM scratch
ARG REVISION=unknown
LABEL org.opencontainers.image.title="credential-operator" \
      org.opencontainers.image.description="Credentials and expiring API tokens as Kubernetes objects" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.3.0" \
      org.opencontainers.image.revision="$REVISION"
COPY LICENSE /LICENSE
COPY --from=build /out/credential-operator /credential-operator
# By its number: Kubernetes cannot tell of a name whether it is root's.
USER 65532:65532
ENTRYPOINT ["/credential-operator"]
