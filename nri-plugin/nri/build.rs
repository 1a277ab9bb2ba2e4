//! Turns `proto/api.proto` into Rust: the messages and the ttrpc services. No protoc is needed.

use std::path::Path;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=proto/api.proto");
    println!("cargo:rerun-if-changed=build.rs");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo did not set `OUT_DIR`"))?;
    let out = Path::new(&out);
    Codegen::new()
        .out_dir(out)
        .include("proto")
        .input("proto/api.proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .customize(Customize { async_all: true, ..Customize::default() })
        .run()?;
    for file in ["api.rs", "api_ttrpc.rs"] {
        strip_inner_attributes(&out.join(file))?;
    }
    Ok(())
}

/// `include!` refuses inner attributes and inner docs, and the generators write some at the head of each file.
fn strip_inner_attributes(file: &Path) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let kept: String = text
        .lines()
        .filter(|line| !line.starts_with("#![") && !line.starts_with("//!"))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(file, kept)
}
