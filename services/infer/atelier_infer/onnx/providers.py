"""ONNX Runtime's execution provider: CPU in fp32, OpenVINO in bf16, or CUDA in fp16; chosen at start and verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from atelier_contracts import names

from atelier_infer.errors import BundleError, ProviderError
from atelier_infer.onnx.fp16 import write_fp16
from atelier_infer.onnx.graph_cache import GRAPH, WEIGHTS, building, is_usable
from atelier_infer.onnx.io_binding import BoundSession
from atelier_infer.onnx.session import Session
from atelier_infer.settings import ProviderName

NAMES: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
INSTALL_HINTS: dict[ProviderName, str] = {
    "cpu": "install the extra infer",
    "openvino": "install the extra infer-openvino into a separate environment, because it replaces the package onnxruntime",
    "cuda": "install the extra infer-cuda into a separate environment, on a machine with an NVIDIA GPU",
}
FALLBACK_HINTS: dict[ProviderName, str] = {
    "cpu": "this build of ONNX Runtime is broken",
    "openvino": "or set ATELIER_INFER_PROVIDER=cpu",
    "cuda": "give the container a GPU (docker run --gpus all; needs NVIDIA's container toolkit), or use the CPU image",
}
DEVICES: dict[ProviderName, str] = {"cuda": "cuda"}
"""The device of providers that do not use the CPU's memory."""
UNETS: dict[ProviderName, tuple[str, ...]] = {
    "cpu": (names.CPU_UNET_FILE, names.FUSED_UNET_FILE, names.UNET_FILE),
    "cuda": (names.FUSED_UNET_FILE, names.UNET_FILE),
    "openvino": (names.UNET_FILE,),
}
"""The graphs of a UNet that a provider runs, the fastest first."""
MIN_EXTERNAL = str(64 * 1024)
"""Bytes; smaller constants stay in the graph, because ONNX Runtime reads the sizes of a Split there alone when it opens one."""


@dataclass(frozen=True)
class Runtime:
    """Creates sessions.

    Attributes:
        intra_op_threads: threads of one operator; 0 leaves it to ONNX Runtime, which uses one per core.
        cache_dir: for optimised graphs and compiled blobs; without it nothing is cached.
    """

    provider: ProviderName = "cpu"
    intra_op_threads: int = 0
    cache_dir: Path | None = None

    def choose_unet(self, files: Container[str]) -> str:
        """The file of the fastest of a bundle's UNets that the provider runs."""
        return next(file for file in UNETS[self.provider] if file in files or file == names.UNET_FILE)

    def check(self) -> None:
        """Checks that this build of ONNX Runtime has the provider.

        Raises:
            ProviderError: it does not.
        """
        available = ort.get_available_providers()
        if NAMES[self.provider] not in available:
            raise ProviderError(
                f"provider {self.provider} needs {NAMES[self.provider]}; this build of ONNX Runtime {ort.__version__} has "
                f"{', '.join(available)}; {INSTALL_HINTS[self.provider]}"
            )
        if self.provider == "cuda":
            ort.preload_dlls()  # CUDA and cuDNN come as Python packages, where the dynamic loader does not look

    def session(self, path: Path, key: str, *, fp16: bool = False) -> ort.InferenceSession:
        """Opens a graph with the provider.

        Args:
            path: an ONNX graph with its weights next to it.
            key: identifies the graph's content in the cache.
            fp16: CUDA runs the graph in float16 if there is a cache folder to store it in.

        Raises:
            BundleError: ONNX Runtime cannot open the graph.
            ProviderError: ONNX Runtime fell back to another provider, which it merely logs.
        """
        cached = self._cache_folder(key)
        try:
            if cached and self.provider == "cpu":
                session = self._open_optimized(path, cached)
            elif cached and self.provider == "cuda" and fp16:
                session = self._open_fp16(path, cached)
            else:
                session = self._open(path, cached)
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
            raise BundleError(f"{path.name}: ONNX Runtime cannot open it: {error}") from error
        if (actual := session.get_providers()[0]) != NAMES[self.provider]:
            raise ProviderError(
                f"{path.name}: must run on {NAMES[self.provider]}; ONNX Runtime fell back to {actual} and logged the reason; "
                f"{FALLBACK_HINTS[self.provider]}"
            )
        return session

    @property
    def build(self) -> str:
        """Identifies what a graph was optimised for: provider, version of ONNX Runtime, and kind of processor."""
        return f"{self.provider}-{ort.__version__}-{_processor()}"

    def bind(self, session: ort.InferenceSession) -> Session:
        """Uses IO binding if the provider has a device of its own."""
        return BoundSession(session, DEVICES[self.provider]) if self.provider in DEVICES else session

    def _cache_folder(self, key: str) -> Path | None:
        return self.cache_dir and self.cache_dir / "graphs" / self.build / key

    def _open(self, path: Path, cached: Path | None, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
        return ort.InferenceSession(str(path), options or self._options(), providers=[self._provider(cached)])

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        # compared with ORT_ENABLE_ALL: a quarter of the load time, less than half the memory, same speed
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.intra_op_num_threads = self.intra_op_threads
        options.enable_mem_pattern = False  # it keeps another copy of a step's memory per image size and is no faster
        options.log_severity_level = 3  # errors; a fallback is detected above
        return options

    def _provider(self, cached: Path | None) -> str | tuple[str, dict[str, Any]]:
        if self.provider == "openvino":
            config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16"}
            if self.intra_op_threads:
                config["INFERENCE_NUM_THREADS"] = str(self.intra_op_threads)
            if cached:
                cached.mkdir(parents=True, exist_ok=True)
                config["CACHE_DIR"] = str(cached)
            return NAMES["openvino"], {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}
        if self.provider == "cuda":
            return NAMES["cuda"], {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1"}
        return NAMES["cpu"]

    def _open_optimized(self, path: Path, cached: Path) -> ort.InferenceSession:
        """Opens the cached optimised graph, or optimises the graph and caches the result."""
        if is_usable(cached):
            options = self._options()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            return self._open(cached / GRAPH, None, options)
        with building(cached) as built:
            options = self._options()
            options.optimized_model_filepath = str(built / GRAPH)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", MIN_EXTERNAL)
            return self._open(path, None, options)

    def _open_fp16(self, path: Path, cached: Path) -> ort.InferenceSession:
        if not is_usable(cached):
            with building(cached) as built:
                write_fp16(path, built / GRAPH, WEIGHTS)
        return self._open(cached / GRAPH, None)


def _processor() -> str:
    """A hash of the CPU's feature flags, which optimised graphs may depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:8]
