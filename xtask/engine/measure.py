"""Starts vLLM on the processor for a few small random models and writes down what it decided.

    python measure.py OUT.jsonl

One line a case: the config, the options, and the numbers vLLM arrived at, from its own objects.
Each case runs in a process forked after the imports, which take longer than the engine itself.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from models import CASES

OUT = Path(sys.argv[1]).resolve()
CACHE = OUT.parent / "cache"

# Seconds until the kernel ends the imports, or a case. They take some twenty on an idle machine.
LIMIT = 600
signal.alarm(LIMIT)

# No network, no report of usage, nothing left outside the folder of the records, and the engine in
# this process, where its groups can be read.
os.environ.update(
    XDG_CACHE_HOME=str(CACHE),
    XDG_CONFIG_HOME=str(CACHE),
    TRITON_CACHE_DIR=str(CACHE / "triton"),
    TORCHINDUCTOR_CACHE_DIR=str(CACHE / "inductor"),
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
    # One thread is enough, and OpenMP has no pool yet when the cases are forked.
    OMP_NUM_THREADS="1",
)

# Of packages against each other; nothing to be done about them here.
warnings.simplefilter("ignore", FutureWarning)

import torch
import vllm
from vllm import EngineArgs, SamplingParams
from vllm.entrypoints.llm import LLM
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine

PROMPT = [1, 2, 3, 4, 5]


def start(folder, options, usage):
    """The engine; as `LLM` starts it, or with the defaults of the API server."""
    options = dict(
        model=folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        disable_log_stats=True,
        **options,
    )
    if usage == "offline":
        llm = LLM(**options)
        # It must not only start: a few tokens go through its blocks.
        done = llm.generate(
            {"prompt_token_ids": PROMPT},
            SamplingParams(max_tokens=3, ignore_eos=True, detokenize=False),
            use_tqdm=False,
        )
        assert len(done[0].outputs[0].token_ids) == 3, done
        return llm.llm_engine
    return LLMEngine.from_engine_args(
        EngineArgs(**options), usage_context=UsageContext.OPENAI_API_SERVER
    )


def numbers(engine):
    """What the engine says of itself."""
    config = engine.vllm_config
    cache = config.cache_config
    pool = engine.engine_core.engine_core.scheduler.kv_cache_config
    groups = []
    for group in pool.kv_cache_groups:
        spec = group.kv_cache_spec
        groups.append(
            {
                "num_layers": len(group.layer_names),
                "block_size": spec.block_size,
                "page_size_bytes": spec.page_size_bytes,
                "spec": type(spec).__name__,
            }
        )
    return {
        "block_size": cache.block_size,
        "num_gpu_blocks": cache.num_gpu_blocks,
        "kv_cache_size_tokens": cache.kv_cache_size_tokens,
        "max_concurrency": cache.kv_cache_max_concurrency,
        "max_model_len": config.model_config.max_model_len,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_in_flight_tokens": config.max_in_flight_tokens,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "groups": groups,
    }


def measure(case):
    record = dict(case, version=vllm.__version__)
    with tempfile.TemporaryDirectory(dir=OUT.parent) as folder:
        Path(folder, "config.json").write_text(json.dumps(case["config"]))
        try:
            record["vllm"] = numbers(start(folder, case["options"], case["usage"]))
        except ValueError as error:
            # How vLLM refuses to start; anything else is a failure of the lane.
            record["refused"] = str(error)
    return record


def main():
    signal.alarm(0)
    cpu = {
        "amx": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
    }
    for case in CASES:
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT)
            code = 1
            try:
                record = dict(measure(case), cpu=cpu)
                with OUT.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                # Nothing of the engine is worth an orderly end.
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status != 0:
            sys.exit(f"{case['name']}: vLLM failed (status {status})")
        print(f"{case['name']}: measured", flush=True)


if __name__ == "__main__":
    main()
