"""What runs the graphs: ONNX Runtime's CPU provider in fp32, OpenVINO in bf16, or CUDA; chosen at start and verified."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from atelier_contracts.manifests import file_sha256

from atelier_infer.errors import BundleError, ProviderError
from atelier_infer.settings import ProviderName

log = logging.getLogger(__name__)

NAMES: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
HOW_TO_GET: dict[ProviderName, str] = {
    "cpu": "install the extra infer",
    "openvino": "install the extra infer-openvino into an environment of its own: it has the import name of onnxruntime",
    "cuda": "install onnxruntime-gpu instead of onnxruntime into an environment of its own, on a machine with an NVIDIA GPU",
}
OPTIMIZED, WEIGHTS, SUMS = "graph.onnx", "graph.onnx.data", "sha256.json"


@dataclass(frozen=True)
class Runtime:
    """How sessions are made.

    Attributes:
        provider: what runs them.
        intra_op_threads: threads of one operator; 0 leaves it to ONNX Runtime, which takes one per core.
        cache_dir: where optimised graphs and compiled blobs are kept; none keeps none.
    """

    provider: ProviderName = "cpu"
    intra_op_threads: int = 0
    cache_dir: Path | None = None

    def check(self) -> None:
        """Whether this build of ONNX Runtime has the provider.

        Raises:
            ProviderError: it has not.
        """
        available = ort.get_available_providers()
        if NAMES[self.provider] not in available:
            raise ProviderError(
                f"provider {self.provider} needs {NAMES[self.provider]}; this build of ONNX Runtime {ort.__version__} has "
                f"{', '.join(available)}; {HOW_TO_GET[self.provider]}"
            )

    def session(self, path: Path, key: str) -> ort.InferenceSession:
        """A session that is run by the provider.

        Args:
            path: an ONNX graph, with its weights beside it.
            key: names the graph's content, so that what was made of it before is found.

        Raises:
            BundleError: ONNX Runtime cannot open the graph.
            ProviderError: another provider would run it, of which ONNX Runtime itself only writes a line in its log.
        """
        home = self._home(key)
        try:
            session = self._cached(path, home) if self.provider == "cpu" and home else self._open(path, home)
        except Exception as error:  # the library's classes share no other base
            raise BundleError(f"{path.name}: ONNX Runtime cannot open it: {error}") from error
        if (found := session.get_providers()[0]) != NAMES[self.provider]:
            raise ProviderError(f"{path.name}: must be run by {NAMES[self.provider]}; ONNX Runtime fell back to {found}")
        return session

    def _home(self, key: str) -> Path | None:
        # a graph optimised by one version, or for one kind of processor, may not suit another
        return self.cache_dir and self.cache_dir / "graphs" / f"{self.provider}-{ort.__version__}-{_processor()}" / key

    def _open(self, path: Path, home: Path | None, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
        return ort.InferenceSession(str(path), options or self._options(), providers=[self._provider(home)])

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        # against ORT_ENABLE_ALL: a quarter of the load time, less than half the memory, same speed
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.intra_op_num_threads = self.intra_op_threads
        options.log_severity_level = 3  # errors; what matters is checked here
        return options

    def _provider(self, home: Path | None) -> str | tuple[str, dict[str, Any]]:
        if self.provider == "openvino":
            config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16"}
            if self.intra_op_threads:
                config["INFERENCE_NUM_THREADS"] = str(self.intra_op_threads)
            if home:
                home.mkdir(parents=True, exist_ok=True)
                config["CACHE_DIR"] = str(home)
            return NAMES["openvino"], {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}
        if self.provider == "cuda":
            return NAMES["cuda"], {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1"}
        return NAMES["cpu"]

    def _cached(self, path: Path, home: Path) -> ort.InferenceSession:
        """Opens what was optimised before, if it is intact; otherwise optimises, and keeps that."""
        if _intact(home):
            options = self._options()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            return self._open(home / OPTIMIZED, None, options)
        if home.exists():
            log.warning("optimised graph dropped: it is damaged", extra={"fields": {"folder": str(home)}})
            shutil.rmtree(home)
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incoming-", dir=home.parent) as name:
            made = Path(name) / "made"
            made.mkdir()
            options = self._options()
            options.optimized_model_filepath = str(made / OPTIMIZED)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
            session = self._open(path, None, options)
            files = {file.name: file_sha256(file) for file in made.iterdir()}
            (made / SUMS).write_text(json.dumps(files))
            if not home.exists():  # another process may have been quicker
                made.rename(home)
        return session


def _intact(home: Path) -> bool:
    try:
        sums: dict[str, str] = json.loads((home / SUMS).read_text())
        return OPTIMIZED in sums and all(file_sha256(home / Path(name).name) == sha256 for name, sha256 in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _processor() -> str:
    """What the processor can do, as far as optimised graphs may depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:8]
