//! Checkpoints that are whole, and every way in which one can be broken.

use super::{Checkpoint, Reason, StoredDtype};
use crate::error::Error;
use crate::model::Layout;
use crate::units::Bytes;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

/// A safetensors file: a header, and so many bytes of data (a hole in the file).
fn write(path: &Path, header: &str, data: u64) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    fs::write(path, &bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64 + data).unwrap();
}

fn tensor(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

fn single(header: &str, data: u64) -> Result<Checkpoint, Error> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.safetensors"), header, data);
    Checkpoint::open(folder.path())
}

/// The field that an error names.
fn field(result: Result<Checkpoint, Error>) -> String {
    match result {
        Err(Error::ReadCheckpoint { field, problem, path }) => {
            assert!(!problem.is_empty() && !path.as_os_str().is_empty());
            format!("{field}: {problem}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_single_file_is_read() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}   "#,
        tensor("b", "F8_E4M3", "[4,2]", 12, 20),
        tensor("a", "BF16", "[2,3]", 0, 12),
        tensor("scalar", "F32", "[]", 20, 24),
    );
    let checkpoint = single(&header, 24).unwrap();
    assert_eq!(checkpoint.bytes, Bytes(24));
    assert_eq!(checkpoint.bytes_by_dtype[&StoredDtype::Bf16], Bytes(12));
    assert_eq!(checkpoint.bytes_by_dtype[&StoredDtype::F8E4M3], Bytes(8));
    let names: Vec<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "scalar"]);
}

#[test]
fn shards_are_those_of_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&path("m-2.safetensors"), &format!("{{{}}}", tensor("y", "I32", "[2]", 0, 8)), 8);
    // A cache of checkpoints holds links to files elsewhere.
    write(&path("blob"), &format!("{{{}}}", tensor("x", "U8", "[3]", 0, 3)), 3);
    std::os::unix::fs::symlink(path("blob"), path("m-1.safetensors")).unwrap();
    write(&path("other.safetensors"), "{}", 0);
    let index = |map: &str| {
        fs::write(
            path("model.safetensors.index.json"),
            format!(r#"{{"metadata":{{"total_size":11}},"weight_map":{map}}}"#),
        )
        .unwrap();
        Checkpoint::open(folder.path())
    };
    let checkpoint = index(r#"{"x":"m-1.safetensors","y":"m-2.safetensors"}"#).unwrap();
    assert_eq!((checkpoint.bytes, checkpoint.files.len()), (Bytes(11), 2));
    for (map, expected) in [
        (r#"{"x":"m-1.safetensors","y":"m-1.safetensors"}"#, "y: missing"),
        (r#"{"x":"../m-1.safetensors"}"#, "weight_map"),
        (r#"{"x":"/etc/passwd"}"#, "weight_map"),
        (r#"{"x":"m-1.safetensors","x":"m-2.safetensors"}"#, "there twice"),
        (r"{}", "weight_map: empty"),
        (r#"{"x":1}"#, "weight_map"),
        (r"[]", "weight_map"),
    ] {
        let found = field(index(map));
        assert!(found.contains(expected), "{map}: {found}");
    }
    assert!(matches!(index(r#"{"x":"gone.safetensors"}"#), Err(Error::ReadFile { .. })));
    write(&path("m-2.safetensors"), &format!("{{{}}}", tensor("x", "U8", "[1]", 0, 1)), 1);
    let found = field(index(r#"{"x":"m-1.safetensors","z":"m-2.safetensors"}"#));
    assert!(found.contains("another file"), "{found}");
}

#[test]
fn broken_headers_name_the_field() {
    let of = |tensor: String| format!("{{{tensor}}}");
    for (header, data, expected) in [
        (of(tensor("a", "BF16", "[2,3]", 0, 12)), 11, "a.data_offsets: [0, 12] of 11 bytes"),
        (of(tensor("a", "BF16", "[2,3]", 0, 12)), 13, "(data)"),
        (of(tensor("a", "BF16", "[2,3]", 1, 13)), 13, "leaves a gap"),
        (of(tensor("a", "BF16", "[2,3]", 12, 0)), 12, "ends before it begins"),
        (of(tensor("a", "BF16", "[2,4]", 0, 12)), 12, "a.shape"),
        (of(tensor("a", "F4", "[3]", 0, 1)), 1, "a.shape"),
        (of(tensor("a", "U8", "[4294967296,4294967296,4294967296]", 0, 1)), 1, "a.shape"),
        (of(tensor("a", "U8", "[18446744073709551615]", 0, 1)), 1, "a.shape"),
        (of(tensor("a", "Q8", "[1]", 0, 1)), 1, "not of the format"),
        (of(tensor("a", "U8", "[-1]", 0, 1)), 1, "(header)"),
        (of(tensor("a", "U8", "[1.0]", 0, 1)), 1, "(header)"),
        (of(tensor("a", "U8", "[NaN]", 0, 1)), 1, "(header)"),
        (of(tensor("a", "U8", "3", 0, 1)), 1, "(header)"),
        (r#"{"a":{"dtype":"U8","shape":[1]}}"#.into(), 1, "data_offsets"),
        (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#.into(), 1, "(header)"),
        (r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.into(), 1, "dupl"),
        (r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"b":0}}"#.into(), 1, "unknown"),
        (r#"{"a":null}"#.into(), 0, "(header)"),
        ("[]".into(), 0, "does not begin"),
        ("{".into(), 0, "(header)"),
        ("{} x".into(), 0, "(header)"),
        (format!("{{\"a\":{}", "[".repeat(100_000)), 0, "(header)"),
    ] {
        let found = field(single(&header, data));
        assert!(found.contains(expected), "{header:.80}: {found}");
    }
    let twice =
        format!("{{{},{}}}", tensor("a", "U8", "[1]", 0, 1), tensor("a", "U8", "[1]", 1, 2));
    assert!(field(single(&twice, 2)).contains("there twice"));
    let across =
        format!("{{{},{}}}", tensor("a", "U8", "[2]", 0, 2), tensor("b", "U8", "[2]", 1, 3));
    assert!(field(single(&across, 3)).contains("overlaps"));
}

#[test]
fn broken_files_end_in_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    assert!(field(Checkpoint::open(folder.path())).contains("(folder)"));
    assert!(matches!(
        Checkpoint::open(&folder.path().join("nowhere")),
        Err(Error::ReadFile { .. })
    ));
    for bytes in [vec![], vec![1; 7], vec![0xff; 8], vec![0xff; 64]] {
        fs::write(&path, &bytes).unwrap();
        assert!(field(Checkpoint::open(folder.path())).contains("(length)"), "{bytes:?}");
    }
    // Just as long as the format allows, in a file of 5 GB that is one hole.
    fs::write(&path, 100_000_001_u64.to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(5 << 30).unwrap();
    assert!(field(Checkpoint::open(folder.path())).contains("(length)"));
    write(&path, &format!("{{{}}}", tensor("a", "U8", "[5368709120]", 0, 5 << 30)), 5 << 30);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().bytes, Bytes(5 << 30));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(field(Checkpoint::open(folder.path())).contains("not a file"));
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(Error::ReadFile { .. })));
}

#[test]
fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if made.is_ok_and(|status| status.success()) {
        assert!(field(Checkpoint::open(folder.path())).contains("not a file"));
    }
}

/// A small Qwen 3, whose head is tied.
fn small() -> Layout {
    let config = r#"{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","hidden_size":128,
        "num_attention_heads":2,"num_key_value_heads":1,"head_dim":64,"num_hidden_layers":1,
        "intermediate_size":256,"vocab_size":1000,"tie_word_embeddings":true,"dtype":"bfloat16",
        "max_position_embeddings":1024}"#;
    Layout::from_config(config).unwrap()
}

#[test]
fn a_comparison_says_why() {
    let layout = small();
    let mut at = 0;
    let mut tensors = Vec::new();
    let mut add = |name: &str, dtype: &str, bytes: u64, elements: u64| {
        tensors.push(tensor(name, dtype, &format!("[{elements}]"), at, at + bytes));
        at += bytes;
    };
    let embedding = 1000 * 128;
    add("model.embed_tokens.weight", "BF16", embedding * 2, embedding);
    let padding = 24 * 128 * 2;
    let rest = layout.weight_bytes.unwrap().0 - embedding * 2 - padding;
    add("model.layers.0.everything", "BF16", rest, rest / 2);
    add("lm_head.weight", "BF16", embedding * 2, embedding);
    add("model.layers.1.eh_proj.weight", "BF16", 64, 32);
    add("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 128, 32);
    let header = format!("{{{}}}", tensors.join(","));
    let comparison = single(&header, at).unwrap().compare(&layout).unwrap();
    let reasons: Vec<(Reason, i64)> = comparison.reasons.clone().into_iter().collect();
    let signed = |bytes: u64| i64::try_from(bytes).unwrap();
    assert_eq!(
        reasons,
        [
            (Reason::TiedHead, signed(embedding * 2)),
            (Reason::DraftLayers, 64),
            (Reason::Computed, 128),
            (Reason::VocabularyPadding, -signed(padding)),
        ]
    );
    assert_eq!(comparison.unexplained, 0);
}

proptest! {
    /// Whatever a file holds, reading it ends, in a checkpoint or an error.
    #[test]
    fn no_file_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
        let _ = Checkpoint::open(folder.path());
    }

    /// Nor does any text behind a right length.
    #[test]
    fn no_header_panics(
        header in r#"[\{\}\[\]",:a-c0-9\-]{0,60}|\{"a":\{"dtype":"(U8|F4|BF16|x)","shape":\[[0-9,]{0,30}\],"data_offsets":\[[0-9]{1,21},[0-9]{1,21}\]\}\}"#,
        data in 0_u64..64,
    ) {
        let _ = single(&header, data);
    }

    /// Tensors end to end are read, and counted to the byte.
    #[test]
    fn whole_files_are_read(sizes in proptest::collection::vec(0_u64..1000, 0..20)) {
        let mut at = 0;
        let mut tensors = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let (name, end) = (format!("t{index}"), at + size * 2);
            tensors.push(tensor(&name, "F16", &format!("[1,{size}]"), at, end));
            at = end;
        }
        let checkpoint = single(&format!("{{{}}}", tensors.join(",")), at).unwrap();
        prop_assert_eq!(checkpoint.bytes, Bytes(at));
        prop_assert_eq!(checkpoint.tensors.len(), sizes.len());
    }
}
