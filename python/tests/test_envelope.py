"""The envelope from Python."""

import json
import pathlib

import memvelope
import pytest
from memvelope import Envelope, NoRoomError, ReadFileError, ReadModelError, UnknownModelError

#: An 8-billion-parameter GQA model: 32 layers, 8 KV heads of 128.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
TOTAL = 80 << 30
#: 2 x 32 layers x 8 heads x 128 x 2 bytes, sixteen tokens.
BLOCK_BYTES = 2 * 32 * 8 * 128 * 2 * 16


def test_the_terms_make_up_the_capacity():
    envelope = Envelope.plan(CONFIG, TOTAL)
    assert envelope.block_bytes == BLOCK_BYTES
    assert envelope.block_tokens == 16
    terms = {term.name: term for term in envelope.terms}
    assert terms["total"].bytes == TOTAL
    # 8,030,261,248 parameters of two bytes, as the checkpoint's index states.
    assert terms["weights"].bytes == 16_060_522_496
    taken = [
        term.bytes or 0
        for name, term in terms.items()
        if name not in ("total", "kv_capacity", "kv_cache", "unaccounted")
    ]
    assert envelope.kv_capacity_bytes <= TOTAL - sum(taken)
    assert envelope.kv_capacity_blocks == envelope.kv_capacity_bytes // BLOCK_BYTES
    for term in envelope.terms:
        assert term.origin in ("measured", "derived", "assumed")
        assert term.note
        with pytest.raises(AttributeError):
            term.bytes = 0
    assert all(term.origin != "measured" for term in envelope.terms), "nothing ran"


def test_a_config_may_be_a_path_a_folder_text_or_a_dict(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    expected = Envelope.plan(CONFIG, TOTAL)
    for config in (path, str(path), tmp_path, json.dumps(CONFIG), "\n" + json.dumps(CONFIG)):
        assert Envelope.plan(config, TOTAL) == expected


def test_declared_terms_replace_the_defaults():
    declared = {
        "activations": 3 << 30,
        "context": 1 << 29,
        "runtime_reserve": 7 << 20,
        "safety_reserve": 0,
    }
    envelope = Envelope.plan(
        CONFIG, TOTAL, block_tokens=32, **{f"{name}_bytes": n for name, n in declared.items()}
    )
    terms = {term.name: term.bytes for term in envelope.terms}
    assert {name: terms[name] for name in declared} == declared
    assert envelope.block_bytes == 2 * BLOCK_BYTES


def test_it_prints_and_serializes_every_term():
    envelope = Envelope.plan(CONFIG, TOTAL)
    data = json.loads(envelope.to_json())
    assert data["kv_capacity_bytes"] == envelope.kv_capacity_bytes
    assert [(t["name"], t["bytes"]) for t in data["terms"]] == [
        (t.name, t.bytes) for t in envelope.terms
    ]
    text = str(envelope).replace("-", " ")
    for term in envelope.terms:
        assert term.name.replace("_", " ") in text.lower()
    assert str(envelope.kv_capacity_blocks) in repr(envelope)


def test_a_gate_on_an_envelope_hands_out_its_blocks():
    envelope = Envelope.plan(CONFIG, TOTAL)
    gate = memvelope.Gate(envelope, max_new_tokens_default=300)
    assert gate.usage()["capacity_blocks"] == envelope.kv_capacity_blocks
    with gate.admit(700) as lease:
        assert lease.claim_blocks == 63


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"num_hidden_layers": None}, ReadModelError, "num_hidden_layers"),
        ({"num_hidden_layers": "32"}, ReadModelError, "num_hidden_layers"),
        ({"num_key_value_heads": -8}, ReadModelError, "num_key_value_heads"),
        ({"hidden_size": 0}, ReadModelError, "hidden_size"),
        ({"architectures": ["NoSuchModel"], "model_type": "no_such"}, UnknownModelError, "known"),
    ],
)
def test_a_bad_model_names_the_field(change, error, word):
    with pytest.raises(error, match=word) as caught:
        Envelope.plan({**CONFIG, **change}, TOTAL)
    assert caught.value.field
    if error is UnknownModelError:
        assert len(caught.value.similar) > 1 and caught.value.known > 100


@pytest.mark.parametrize("text", ["{", "{]", '{"a": 1} x', "{}"])
def test_bad_json_is_an_error_of_the_model(text):
    with pytest.raises((ReadModelError, UnknownModelError)):
        Envelope.plan(text, TOTAL)


def test_a_missing_file_is_named():
    with pytest.raises(ReadFileError, match="no/such/config.json") as caught:
        Envelope.plan("no/such/config.json", TOTAL)
    assert caught.value.errno == 2
    assert caught.value.path == "no/such/config.json"


@pytest.mark.parametrize("config", [None, 3, b"\xff", ["config.json"], object()])
def test_what_is_no_config_is_a_type_error(config):
    with pytest.raises((TypeError, ReadFileError)):
        Envelope.plan(config, TOTAL)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"total_bytes": 0}, NoRoomError),
        ({"total_bytes": 1 << 30}, NoRoomError),
        ({"total_bytes": TOTAL, "activations_bytes": 2**62}, NoRoomError),
        ({"total_bytes": TOTAL, "safety_reserve_bytes": 2**63 - 1}, NoRoomError),
        ({"total_bytes": -1}, ValueError),
        ({"total_bytes": 2**63}, ValueError),
        ({"total_bytes": 8e10}, TypeError),
        ({"total_bytes": TOTAL, "block_tokens": 0}, ValueError),
        ({"total_bytes": TOTAL, "block_tokens": -1}, ValueError),
        ({"total_bytes": TOTAL, "context_bytes": "512 MiB"}, TypeError),
    ],
)
def test_bad_amounts_are_refused(arguments, error):
    with pytest.raises(error):
        Envelope.plan(CONFIG, **arguments)


def test_real_configs_agree_with_the_committed_oracle():
    """../../shared may hold configs; those of known families must plan."""
    folder = pathlib.Path(__file__).resolve().parents[3] / "shared/data/kv_oracle/configs"
    if not folder.is_dir():
        pytest.skip(f"ignored: {folder.name} is not here (optional data folder ../shared)")
    config = folder / "LLMProf--Qwen2.5-32B.json"
    # 64 layers x 8 KV heads x 128 x 2 (K and V) x 2 bytes, sixteen tokens.
    assert Envelope.plan(config, TOTAL).block_bytes == 2 * 64 * 8 * 128 * 2 * 16
