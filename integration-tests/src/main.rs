//! lab
use lab::vm::{Containerd, Job, Kernel, Spec, Streams, machine};
fn main() -> anyhow::Result<()> {
    let mut a = std::env::args().skip(1);
    let k: Kernel = a.next().unwrap_or("6.12".into()).parse().map_err(anyhow::Error::msg)?;
    let c: Containerd = a.next().unwrap_or("1.7".into()).parse().map_err(anyhow::Error::msg)?;
    let m = machine(&Spec::node(k, c), &|s| eprintln!("{s}"))?;
    let o = Job::script(a.collect::<Vec<_>>().join(" ")).run(&m, Streams { out: &mut std::io::stdout(), err: &mut std::io::stderr() })?;
    eprintln!("{o:?}");
    Ok(())
}
