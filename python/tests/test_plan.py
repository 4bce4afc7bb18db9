"""The planner from Python: numbers by hand, arguments, and what comes back."""

import ast
import json
import os
import pathlib
import subprocess
import sys
import threading

import memvelope
import pytest
from conftest import clean_env
from memvelope import (
    Gate,
    PlanRefused,
    ReadFileError,
    ReadModelError,
    UnknownModelError,
    plan,
)

#: Four layers of grouped-query attention: 2 KV heads of 64, so 2 x 2 x 64 x 2 bytes a token and
#: layer, and 2 KiB a token over all layers.
GQA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}
#: The same of 8192 positions, every layer looking back on 256 tokens.
WINDOW = {
    **GQA,
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "max_position_embeddings": 8192,
    "sliding_window": 256,
}
TOKEN_BYTES = 4 * 2 * 2 * 64 * 2
GQA_PARAMETERS = (
    1024 * 512  # embedding, and the head with it
    + 4 * (512 * (512 + 2 * 128) + 512 * 512)  # q, k, v and o
    + 4 * 3 * 512 * 1024  # gate, up and down
    + (2 * 4 + 1) * 512  # norms
)
MIB = 1 << 20


def properties():
    """The attributes of a plan, in the order of their declaration."""
    return [name for name, kind in vars(memvelope.Plan).items() if is_property(kind)]


def is_property(kind):
    return type(kind).__name__ == "getset_descriptor"


def test_grouped_queries_by_hand():
    planned = plan(GQA, kv_bytes=64 * MIB)
    assert planned.refused is None
    planned.raise_if_refused()
    assert planned.architecture == "LlamaForCausalLM" and planned.model_dtype == "bfloat16"
    assert planned.engine == "vllm 0.32.0"
    assert planned.block_size == 16
    assert planned.per_token_bytes == TOKEN_BYTES == 2048
    assert planned.bytes_per_block == 16 * TOKEN_BYTES
    assert planned.num_gpu_blocks == 64 * MIB // (16 * TOKEN_BYTES) == 2048
    assert planned.max_model_len == 2048
    # 128 blocks a sequence of 2048.
    assert planned.max_concurrency == 2048 / 128
    assert planned.kv_cache_size_tokens == 2048 * 16
    assert planned.need_bytes_one_request == 2048 * TOKEN_BYTES
    assert planned.available_kv_bytes == 64 * MIB
    assert planned.weights["param_count"] == GQA_PARAMETERS
    assert planned.weights["param_bytes"] == planned.weight_bytes == 2 * GQA_PARAMETERS
    assert planned.weights["bytes_by_dtype"] == {"bfloat16": 2 * GQA_PARAMETERS}
    assert [group["num_layers"] for group in planned.groups] == [4]
    assert planned.equation is None, "the memory was given"
    longest = planned.sequences[-1]
    # Of 2047 blocks: one is the null block.
    assert longest["tokens"] == 2048 and longest["count"] == 2047 // 128
    assert longest["bound_by"] == "kv_cache"


def test_a_window_by_hand():
    planned = plan(WINDOW, kv_bytes=64 * MIB, max_num_batched_tokens=512, async_scheduling=False)
    assert planned.refused is None
    assert planned.bytes_per_block == 16 * TOKEN_BYTES
    assert planned.max_model_len == 8192
    assert planned.per_token_bytes == 0, "no layer keeps every token"
    # The window less the token that looks back, a batch, and a block that both may begin in.
    blocks = (256 - 1 + 512 + 15) // 16 + 1
    assert planned.need_bytes_one_request == blocks * 16 * TOKEN_BYTES
    assert planned.groups[0]["blocks_per_request"] == blocks
    assert planned.max_concurrency == 2048 / blocks
    assert planned.groups[0]["specs"][0]["window"] == 256
    # Two batches in flight take a batch more.
    twice = plan(WINDOW, kv_bytes=64 * MIB, max_num_batched_tokens=512)
    assert twice.resolved["max_in_flight_tokens"] == 1024
    assert twice.groups[0]["blocks_per_request"] == (256 - 1 + 1024 + 15) // 16 + 1


def test_options_count():
    fp8 = plan(GQA, kv_bytes=64 * MIB, kv_dtype="fp8")
    assert fp8.per_token_bytes == TOKEN_BYTES // 2
    assert fp8.num_gpu_blocks == 4096
    ranks = plan(GQA, kv_bytes=64 * MIB, tp=2)
    assert ranks.tensor_parallel_size == ranks.resolved["tensor_parallel"] == 2
    assert ranks.per_token_bytes == TOKEN_BYTES // 2
    assert plan(GQA, kv_bytes=64 * MIB, block_size=32).bytes_per_block == 32 * TOKEN_BYTES
    short = plan(GQA, kv_bytes=64 * MIB, max_model_len=1024, max_num_seqs=8)
    assert short.max_model_len == 1024
    assert short.max_concurrency == 32
    assert short.sequences[-1]["count"] == 8
    assert short.sequences[-1]["bound_by"] == "max_num_seqs"
    assert short.worst_case["sequences"] == 8
    assert short.worst_case["need_bytes"] == 8 * 1024 * TOKEN_BYTES


def test_an_index_is_as_good_as_an_int():
    class Count:
        def __index__(self):
            return 64 * MIB

    assert plan(GQA, kv_bytes=Count()) == plan(GQA, kv_bytes=64 * MIB)


def test_the_equation_of_a_device():
    planned = plan(GQA, gpu="h100")
    assert planned.device == "NVIDIA H100 80GB HBM3"
    assert planned.device_source == "table"
    terms = {term.name: term.bytes for term in planned.equation.terms}
    share = int(terms["total"] * 0.92)
    assert terms["withheld"] == terms["total"] - share
    assert terms["weights"] == 2 * GQA_PARAMETERS
    taken = terms["weights"] + terms["activations"] + terms["context"]
    assert planned.available_kv_bytes == share - taken
    assert planned.num_gpu_blocks == planned.available_kv_bytes // (16 * TOKEN_BYTES)
    half = plan(GQA, gpu="h100", gpu_memory_utilization=0.5)
    assert half.available_kv_bytes < planned.available_kv_bytes
    assert plan(GQA, gpu="h100", gpu_memory_utilization=1).available_kv_bytes == (
        planned.available_kv_bytes + terms["withheld"]
    )


def test_a_device_in_bytes():
    planned = plan(GQA, gpu=80 << 30)
    assert planned.device_source == "declared" and "9.0" in planned.device
    assert planned == plan(GQA, gpu=80 << 30, capability=(9, 0))
    assert planned == plan(GQA, gpu="80GiB")
    ampere = plan(GQA, gpu=80 << 30, capability=(8, 0))
    assert "8.0" in ampere.device and ampere != planned


def test_a_named_device_may_have_another_capability():
    fp8 = {"kv_dtype": "fp8", "kv_bytes": 64 * MIB}
    backends = [
        plan(GQA, **fp8, **device).resolved["attn_backends"]
        for device in ({"gpu": "a100"}, {"gpu": "h100"}, {"gpu": "a100", "capability": (9, 0)}, {})
    ]
    assert backends[0] != backends[1] == backends[2] == backends[3]


def test_what_is_assumed_is_said():
    assert any("H100" in warning for warning in plan(GQA, kv_bytes=64 * MIB).warnings)
    assert plan(GQA, gpu="h100").warnings == []
    longer = plan(GQA, gpu="h100", max_model_len=4096)
    assert longer.refused["rule"] == "parameter", "longer than the config declares"


def test_a_checkpoints_files_count(tmp_path):
    def tensors(kind, width):
        shape = [GQA_PARAMETERS]
        header = {"w": {"dtype": kind, "shape": shape, "data_offsets": [0, GQA_PARAMETERS * width]}}
        text = json.dumps(header).encode()
        path = tmp_path / "model.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(path, 8 + len(text) + GQA_PARAMETERS * width)

    (tmp_path / "config.json").write_text(json.dumps(GQA))
    described = plan(GQA, gpu="h100")
    tensors("BF16", 2)
    held = plan(tmp_path, gpu="h100")
    assert held.weight_bytes == described.weight_bytes and held.warnings == []
    assert "measured" in [term.origin for term in held.equation.terms if term.name == "weights"]
    # Of a file alone, only the file is read.
    assert plan(tmp_path / "config.json", gpu="h100") == described
    tensors("F8_E4M3", 1)
    half = plan(tmp_path, gpu="h100")
    assert half.weight_bytes == GQA_PARAMETERS
    assert len(half.warnings) == 1 and "files hold" in half.warnings[0]
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 16)
    torn = plan(tmp_path, gpu="h100")
    assert torn.weight_bytes == described.weight_bytes
    assert "computed from the config alone" in torn.warnings[0]


def test_a_processor_has_no_size_of_its_own():
    planned = plan(GQA, gpu="cpu", kv_bytes=64 * MIB)
    assert planned.device == "cpu"
    with pytest.raises(ValueError, match="kv_bytes"):
        plan(GQA, gpu="cpu")


def test_without_an_engine_nothing_is_rounded():
    planned = plan(GQA, kv_bytes=64 * MIB + 7, engine="generic")
    assert planned.engine == "generic"
    assert planned.per_token_bytes == TOKEN_BYTES
    assert planned.need_bytes_one_request == 2048 * TOKEN_BYTES
    assert planned.sequences[-1]["count"] == 16
    for name in ("block_size", "bytes_per_block", "num_gpu_blocks", "resolved"):
        assert getattr(planned, name) is None
    with pytest.raises(ValueError, match="blocks"):
        Gate.from_plan(planned)
    whole = plan(GQA, gpu="h100", engine="generic")
    terms = {term.name: term.bytes for term in whole.equation.terms}
    assert not terms["withheld"], "a share of 1, unless told otherwise"


def test_a_config_may_be_a_path_a_folder_text_or_a_dict(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GQA))
    expected = plan(GQA, gpu="l4")
    for config in (path, str(path), tmp_path, json.dumps(GQA), " \n" + json.dumps(GQA)):
        assert plan(config, gpu="l4") == expected
    assert plan(GQA, gpu="l40s") != expected
    assert expected != json.loads(expected.to_json())


def test_a_quantisation_beside_the_config_counts(tmp_path):
    quant = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    }
    other = tmp_path / "other"
    other.mkdir()
    for folder, name in ((tmp_path, "config.json"), (other, "model.json")):
        (folder / name).write_text(json.dumps(GQA))
        (folder / "hf_quant_config.json").write_text(json.dumps(quant))
    expected = plan(GQA, gpu="h100", quant_config=quant)
    bare = plan(GQA, gpu="h100")
    assert expected.weight_bytes < bare.weight_bytes
    assert plan(tmp_path, gpu="h100") == expected
    assert plan(tmp_path / "config.json", gpu="h100") == expected
    assert plan(GQA, gpu="h100", quant_config=json.dumps(quant)) == expected
    assert plan(GQA, gpu="h100", quant_config=tmp_path) == expected
    assert plan(GQA, gpu="h100", quant_config=other / "hf_quant_config.json") == expected
    # A file of another name was not taken from a model's folder.
    assert plan(other / "model.json", gpu="h100") == bare
    (tmp_path / "hf_quant_config.json").write_text("{")
    with pytest.raises(ReadModelError):
        plan(tmp_path, gpu="h100")


def test_json_has_every_attribute_under_its_name():
    for arguments in ({"gpu": "h100"}, {"kv_bytes": 64 * MIB}, {"gpu": "l4", "engine": "generic"}):
        planned = plan(WINDOW, **arguments)
        data = json.loads(planned.to_json())
        assert sorted(data) == sorted(properties())
        equation = data.pop("equation")
        if planned.equation is None:
            assert equation is None
        else:
            assert equation == json.loads(planned.equation.to_json())
        assert data == {name: getattr(planned, name) for name in data}


def test_plans_are_frozen_and_compare_by_value():
    planned = plan(GQA, gpu="h100")
    for name in [*properties(), "new"]:
        with pytest.raises(AttributeError):
            setattr(planned, name, 0)
    assert planned == plan(GQA, gpu="H100")
    assert not planned != plan(GQA, gpu="h100")
    assert planned != plan(GQA, gpu="h200")
    assert planned != 3 and planned is not None
    planned.groups.clear()
    planned.resolved.clear()
    assert planned.groups and planned.resolved, "what is returned is a copy"
    with pytest.raises(TypeError):
        memvelope.Plan()


def test_a_plan_explains_itself():
    planned = plan(GQA, gpu="h100")
    text = planned.explain()
    assert str(planned) == text
    for word in ("LlamaForCausalLM", "H100", "weights", str(planned.num_gpu_blocks)):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert str(planned.num_gpu_blocks) in repr(planned)
    assert repr(planned).startswith("<memvelope.Plan LlamaForCausalLM ")


@pytest.mark.parametrize(
    ("arguments", "rule", "word"),
    [
        ({"kv_bytes": 64 * MIB, "tp": 3}, "tensor_parallel", "3"),
        ({"kv_bytes": 0}, "memory", "0"),
        ({"kv_bytes": 33 * 16 * TOKEN_BYTES}, "memory", "2048"),
        ({"gpu": 1 << 20}, "memory", "1.0 MiB"),
        ({"kv_bytes": 64 * MIB, "block_size": 7}, "backend", "7"),
    ],
)
def test_what_would_not_start_is_returned_and_can_be_raised(arguments, rule, word):
    planned = plan(GQA, **arguments)
    assert planned.refused["rule"] == rule
    assert word in planned.refused["reason"]
    assert f"refused={rule}" in repr(planned)
    assert planned.refused["reason"].split()[0] in planned.explain()
    for attempt in (planned.raise_if_refused, lambda: Gate.from_plan(planned)):
        with pytest.raises(PlanRefused) as caught:
            attempt()
        assert isinstance(caught.value, memvelope.MemvelopeError)
        assert caught.value.rule == rule
        assert caught.value.reason == planned.refused["reason"] == str(caught.value)


def test_a_length_that_would_fit_is_named():
    planned = plan(GQA, kv_bytes=33 * 16 * TOKEN_BYTES)
    # 32 blocks beside the null block.
    assert planned.estimated_max_model_len == 512
    again = plan(GQA, kv_bytes=33 * 16 * TOKEN_BYTES, max_model_len=512)
    assert again.refused is None and again.sequences[-1]["count"] == 1


def test_extremes_are_planned_or_refused():
    for arguments in (
        {"max_model_len": 2**63 - 1},
        {"tp": 2**32 - 1},
        {"block_size": 2**32 - 1},
        {"max_num_batched_tokens": 2**32 - 1, "max_num_seqs": 2**32 - 1},
        {"kv_bytes": 2**63 - 1},
        {"gpu": 2**63 - 1, "capability": (2**32 - 1, 0)},
        {"gpu_memory_utilization": 5e-324},
    ):
        for engine in ("vllm", "generic"):
            planned = plan(GQA, **{"kv_bytes": 64 * MIB, **arguments}, engine=engine)
            assert planned.explain() and json.loads(planned.to_json())
    assert plan(GQA, gpu=2**63 - 1).num_gpu_blocks > 2**40


BAD_VALUES = [
    ({"tp": 0}, "tp=0"),
    ({"tp": -1}, "tp=-1"),
    ({"tp": 2**32}, "tp="),
    ({"kv_bytes": -1}, "kv_bytes=-1"),
    ({"kv_bytes": 2**63}, "kv_bytes="),
    ({"gpu": -1}, "gpu=-1"),
    ({"gpu": 2**63}, "gpu="),
    ({"gpu": "h1000"}, "gpu: .*h100, "),
    ({"gpu": ""}, "gpu: "),
    ({"block_size": 0}, "block_size=0"),
    ({"block_size": 2**32}, "block_size="),
    ({"max_num_batched_tokens": 0}, "max_num_batched_tokens=0"),
    ({"max_num_seqs": 0}, "max_num_seqs=0"),
    ({"max_model_len": 0}, "max_model_len=0"),
    ({"max_model_len": -1}, "max_model_len=-1"),
    ({"gpu_memory_utilization": 0}, "gpu_memory_utilization=0"),
    ({"gpu_memory_utilization": 1.01}, "gpu_memory_utilization=1.01"),
    ({"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization=NaN"),
    ({"kv_dtype": "fp7"}, "kv_dtype: .*fp8_e4m3"),
    ({"engine": "sglang"}, "engine: .*vllm"),
    ({"gpu": 80 << 30, "capability": (9, -1)}, "capability"),
    ({"gpu": "cpu", "capability": (9, 0)}, "capability"),
    ({"gpu": "0"}, "gpu: "),
    ({"gpu": "80 parsecs"}, "gpu: "),
]


@pytest.mark.parametrize(("arguments", "match"), BAD_VALUES)
def test_values_out_of_range_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        plan(GQA, **{"kv_bytes": 64 * MIB, **arguments})


BAD_TYPES = [
    ({"tp": 2.0}, "tp"),
    ({"tp": "2"}, "tp"),
    ({"kv_bytes": "40GiB"}, "kv_bytes"),
    ({"gpu": 8e10}, "gpu"),
    ({"gpu": ["h100"]}, "gpu"),
    ({"block_size": "auto"}, "block_size"),
    ({"max_num_batched_tokens": 1e3}, "max_num_batched_tokens"),
    ({"max_num_seqs": 1e3}, "max_num_seqs"),
    ({"max_model_len": "8k"}, "max_model_len"),
    ({"gpu_memory_utilization": "0.9"}, "gpu_memory_utilization"),
    ({"kv_dtype": None}, "kv_dtype"),
    ({"engine": 1}, "engine"),
    ({"gpu": 80 << 30, "capability": 9.0}, "capability"),
    ({"gpu": 80 << 30, "capability": (9,)}, "capability"),
    ({"gpu": 80 << 30, "capability": ("9", "0")}, "capability"),
    ({"prefix_caching": "yes"}, "prefix_caching"),
    ({"async_scheduling": None}, "async_scheduling"),
    ({"quant_config": 3}, "quant_config: expected a path, JSON text or a dict, not int"),
    ({"tensor_parallel": 2}, "tensor_parallel"),
]


@pytest.mark.parametrize(("arguments", "match"), BAD_TYPES)
def test_arguments_of_other_types_are_named(arguments, match):
    with pytest.raises(TypeError, match=match):
        plan(GQA, **{"kv_bytes": 64 * MIB, **arguments})


def test_a_budget_is_needed_and_options_are_named():
    with pytest.raises(TypeError, match="gpu .*kv_bytes"):
        plan(GQA)
    with pytest.raises(TypeError):
        plan(GQA, "h100")
    with pytest.raises(TypeError):
        plan(gpu="h100")


@pytest.mark.parametrize("config", [None, 3, ["config.json"], object()])
def test_what_is_no_config_is_a_type_error(config):
    with pytest.raises(TypeError, match="config: expected a path, JSON text or a dict"):
        plan(config, gpu="h100")


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"num_hidden_layers": None}, ReadModelError, "num_hidden_layers"),
        ({"num_key_value_heads": -2}, ReadModelError, "num_key_value_heads"),
        ({"hidden_size": float("nan")}, ReadModelError, None),
        ({"architectures": ["NoSuchModel"], "model_type": "no_such"}, UnknownModelError, None),
    ],
)
def test_a_bad_model_names_the_field(change, error, field):
    with pytest.raises(error) as caught:
        plan({**GQA, **change}, gpu="h100")
    assert caught.value.field == field or field is None


def test_a_dict_that_is_no_json_is_refused():
    with pytest.raises(TypeError):
        plan({**GQA, "extra": object()}, gpu="h100")
    cyclic = dict(GQA)
    cyclic["self"] = cyclic
    with pytest.raises(ValueError):
        plan(cyclic, gpu="h100")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ReadFileError, match="config.json") as caught:
        plan(tmp_path, gpu="h100")
    assert caught.value.errno == 2
    assert caught.value.path == str(tmp_path / "config.json")
    with pytest.raises(ReadFileError, match="no/such"):
        plan(GQA, gpu="h100", quant_config="no/such/hf_quant_config.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ReadFileError):
        plan(tmp_path, gpu="h100")
    with pytest.raises(ReadModelError):
        plan("/dev/zero", gpu="h100")  # ends, at the bound of what is read


def test_other_threads_run_while_a_file_is_read(tmp_path):
    """The reader waits on a pipe that another thread of the interpreter fills."""
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(json.dumps(GQA)), daemon=True)
    writer.start()
    assert plan(pipe, gpu="h100") == plan(GQA, gpu="h100")
    writer.join(timeout=30)
    assert not writer.is_alive()


def test_a_gate_hands_out_all_but_the_null_block():
    planned = plan(GQA, kv_bytes=64 * MIB)
    gate = Gate.from_plan(planned, max_new_tokens_default=48)
    assert gate.usage()["capacity_blocks"] == planned.num_gpu_blocks - 1
    with gate.admit(2000) as lease:
        assert lease.claim_blocks == 128
    # The plan's longest length is the gate's.
    with pytest.raises(memvelope.Rejected) as caught:
        gate.admit(2001, 48)
    assert caught.value.reason == "too_long"
    longer = Gate.from_plan(planned, max_model_len=4096, pools={"chat": 1, "batch": 1})
    with longer.admit(2001, 48, pool="chat") as lease:
        assert lease.claim_blocks == 129
    with pytest.raises(TypeError, match=r"plan: expected a memvelope\.Plan, not dict"):
        Gate.from_plan({})


@pytest.mark.parametrize("config", [GQA, WINDOW], ids=["full", "window"])
def test_the_gate_takes_what_the_engine_does(config):
    planned = plan(config, kv_bytes=64 * MIB, max_num_batched_tokens=512)
    gate = Gate.from_plan(planned)
    for row in planned.sequences:
        with gate.admit(row["tokens"] - 1, 1) as lease:
            assert lease.claim_blocks == row["blocks"]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({"gpu": "h100"}, "--gpu h100"),
        (
            {"gpu": 24 << 30, "capability": (8, 6), "tp": 2, "max_model_len": 512},
            "--gpu 24GiB --capability 8.6 --tp 2 --max-model-len 512",
        ),
        ({"gpu": "l4", "engine": "generic"}, "--gpu l4 --engine generic"),
        (
            {"gpu": "h200", "kv_bytes": 1024, "kv_dtype": "fp8"},
            "--gpu h200 --kv-bytes 1KiB --kv-dtype fp8",
        ),
    ],
)
def test_the_command_says_the_same(arguments, options, tmp_path):
    try:
        memvelope.sim_path()
    except FileNotFoundError as error:
        pytest.skip(f"ignored: {str(error).splitlines()[0]}")
    (tmp_path / "config.json").write_text(json.dumps(WINDOW))
    planned = plan(tmp_path, **arguments)

    def said(*more):
        command = [sys.executable, "-m", "memvelope", "plan", str(tmp_path), *options.split()]
        done = subprocess.run(
            [*command, *more], env=clean_env(), capture_output=True, text=True, check=False
        )
        assert done.returncode == (planned.refused is not None), done.stderr
        return done.stdout

    assert json.loads(said("--json")) == json.loads(planned.to_json())
    assert said() == planned.explain()


def test_stubs_name_the_fields_of_every_dict():
    stub = pathlib.Path(memvelope.__file__).parent / "_types.pyi"
    fields = {
        node.name: {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    planned = plan(WINDOW, gpu="h100")
    refused = plan(GQA, kv_bytes=0)
    for name, value in {
        "_Refusal": refused.refused,
        "_Sequences": planned.sequences[0],
        "_WorstCase": planned.worst_case,
        "_Weights": planned.weights,
        "_Resolved": planned.resolved,
        "_Group": planned.groups[0],
    }.items():
        assert set(value) == fields[name], name
