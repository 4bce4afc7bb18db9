#!/usr/bin/env bash
# Runs the GPU lane from this bundle: no toolchain and no network, only the NVIDIA driver and a
# Python >= 3.10 (PyTorch is used where it is). `run.sh --help` has the options. A stage that
# finished is not run again, so an interrupted run is resumed by running this once more.
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" -B "$here/lane" "$@"
