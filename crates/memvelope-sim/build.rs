//! Links the product so that its own calls bind to itself.

fn main() {
    // Without it, a second libcuda in the process (or a program that exports `cuInit`) would
    // interpose on the simulator's internal references, and one state would become two.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rerun-if-changed=build.rs");
}
