//! Compiles the BPF programs with clang and generates the skeleton.

use libbpf_cargo::SkeletonBuilder;
use std::env;
use std::path::PathBuf;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    // Debian keeps <asm/types.h> in a folder named for the architecture, where clang -target bpf does not look.
    let asm = format!("/usr/include/{arch}-linux-gnu");
    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-env-changed=CLANG");
    let mut builder = SkeletonBuilder::new();
    if let Some(clang) = env::var_os("CLANG") {
        builder.clang(clang);
    }
    builder
        .source("src/enforcer.bpf.c")
        .obj(out.join("enforcer.bpf.o"))
        .clang_args([
            "-mcpu=v3",
            "-Wall",
            "-Wextra",
            "-Wno-unused-function",
            "-Wno-unused-parameter",
            "-I",
            &asm,
        ])
        .build_and_generate(out.join("enforcer.skel.rs"))
        .expect("the BPF programs compile (clang, and Debian's linux-libc-dev, are needed)");
}
