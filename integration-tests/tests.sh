#!/bin/bash
# Runs every test of the workspace: first the programs that use this machine alone, then those that use guests, side by
# side. No more guests run at once than the machine has cores (`guest_slot` in src/cache.rs), and nothing beside them,
# since a guest that gets no time answers too late. Prints what each said, how long it took (with guests: mostly waiting for
# its turn), how long each guest ran, and the sum; fails when any test failed, when a program ended without its verdict, and
# when there were none.
set -euo pipefail
cd "$(dirname "$0")/.."
CARGO=${CARGO:-cargo}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export NRI_ENFORCER_GUEST_TIMES=$logs/.guests
touch "$NRI_ENFORCER_GUEST_TIMES"

# program NAME DIR COMMAND...: one of them, in the folder of its package as cargo does it
program() {
  local name=$1 dir=$2 begin=$SECONDS status=0
  shift 2
  (cd "$dir" && "$@") >"$logs/$name" 2>&1 </dev/null || status=$?
  grep -q '^test result: ' "$logs/$name" || status=${status/#0/1}
  printf '%s\t%s\t%s\n' "$status" $((SECONDS - begin)) "$name" >>"$logs/.done"
  printf '%5d s  %s%s\n' $((SECONDS - begin)) "$name" "$([ "$status" = 0 ] || echo "  FAILED ($status)")"
}

# Each line of cargo's that is a test program: the folder of its package, and the program.
programs=$("$CARGO" test --locked --workspace --no-run --message-format=json |
  sed -n '/"profile":{[^}]*"test":true/s/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"executable":"\([^"]*\)".*/\1 \2/p')
[ -n "$programs" ] || { echo "cargo names no test program" >&2; exit 1; }
touch "$logs/.done"
while read -r dir exe; do
  case $dir in */integration-tests) ;; *) program "$(basename "$exe")" "$dir" env CARGO_MANIFEST_DIR="$dir" "$exe" ;; esac
done <<<"$programs"
# (cargo itself without that variable: build scripts that look at it would run again, and much would be built anew.)
program documentation "$PWD" "$CARGO" test --locked --workspace --doc --no-fail-fast
while read -r dir exe; do
  case $dir in */integration-tests) program "$(basename "$exe")" "$dir" env CARGO_MANIFEST_DIR="$dir" "$exe" & ;; esac
done <<<"$programs"
wait

cat "$logs"/*
echo "guests, by seconds; those of the emulator's processors; machine; test"
sort -nr "$NRI_ENFORCER_GUEST_TIMES" | awk -F'\t' '
  { printf "%7.1f s %7.1f s  %-32s %s\n", $1, $2, $3, $4; held += $1; busy += $2 }
  END { printf "%7.1f s %7.1f s  %d guests\n", held, busy, NR }'
sort -k2,2nr "$logs/.done" | awk -F'\t' '{ printf "%5d s  %s%s\n", $2, $3, $1 == 0 ? "" : "  FAILED (" $1 ")" }'
cat "$logs"/* | awk -v programs="$(wc -l <<<"$programs")" -v ended="$(wc -l <"$logs/.done")" \
  -v failed="$(awk '$1 != 0' "$logs/.done" | wc -l)" '
  /^test result:/ { p += $4; f += $6; i += $8 }
  END {
    printf "%d passed, %d failed, %d skipped, in %d programs of which %d failed\n", p, f, i, ended, failed
    exit p == 0 || f > 0 || failed > 0 || ended != programs + 1
  }'
