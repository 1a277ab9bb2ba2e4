# Everything runs on Debian 12 as root with Rust installed; each target installs what else it needs.
#   make demo              a policy denies a real container its very first system call
#   make test              all that the project promises, proved; a clean exit means that it holds
#   make lab ARGS="..."    try a policy: make lab ARGS="run --policy FILE --label app=web -- cat /etc/passwd"
#   make bench             what enforcement costs, beside other enforcers, against the limits (about 15 minutes)
#   make cluster-test      the chart in a Kubernetes of one node, here and on a kernel that enforces (15 minutes; the first time 15 more,
#                          since Kubernetes is built)
#   make crio-test CRIO=DIR  CRI-O in a guest; DIR has the programs crio and pinns, which no package registry has
#   make fuzz              damaged policies, patterns and events, ten minutes each; 30 seconds in make test
#   make churn             ten minutes of policies and containers that change; one minute in make bench, seconds in make test
#   make nodes             what the daemon that writes statuses needs of memory with a thousand nodes (a few minutes)
#   make lint              formatting and clippy
#   make image-programs    target/image: what an image is built of, see manifests/image; APPARMOR=1 adds AppArmor's parser
#   make setup             only what the others begin with
# Caches are in $NRI_ENFORCER_CACHE (default /var/cache/nri-enforcer), outside the tree.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
LAB := $(TARGET)/debug/lab
say = @printf '\033[1m==> %s\033[0m\n' "$(1)" >&2

.DEFAULT_GOAL := help
.PHONY: help setup build-setup build demo test lab bench churn nodes lint programs fuzz nightly image-programs cluster-setup cluster-test crio-test

help:
	@sed -n '2,14s/^# //p' Makefile

setup:
	$(call say,setting this machine up (nothing to do after the first time))
	@integration-tests/setup.sh lab

# Only what building needs: no guest is set up.
build-setup:
	@integration-tests/setup.sh build

build: setup
	$(call say,building the daemon and the lab)
	@$(CARGO) build --locked -p nri-plugin -p integration-tests
	@$(CARGO) build-hook

demo: build
	@$(LAB) demo

lab: build
	@$(LAB) $(ARGS)

lint: build-setup
	$(call say,formatting)
	@$(CARGO) fmt --all --check
	$(call say,clippy)
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@$(CARGO) clippy --locked --workspace --test cluster --test crio -- -D warnings

# The hook beside the rest: its last step has one thread.
programs: lint
	$(call say,building everything that is tested)
	@$(CARGO) build-hook & hook=$$!; status=0; $(CARGO) test --locked --workspace --no-run || status=$$?; \
	wait $$hook || status=$$?; exit $$status

# What guests are made of is fetched meanwhile, which is mostly waiting for the network. Not by `make -j`: cargo would take
# its jobs from make.
test: build-setup
	@integration-tests/setup.sh lab & lab=$$!; status=0; $(MAKE) --no-print-directory programs || status=$$?; \
	wait $$lab || status=$$?; exit $$status
	$(call say,saving the machines that tests run in)
	@$(LAB) prepare
	$(call say,tests)
	@CARGO=$(CARGO) integration-tests/tests.sh

# All of it, then the verdict: 1 when a limit is missed.
bench: build
	$(call say,instructions for each operation; then nanoseconds for each match)
	@status=0; $(LAB) bench || status=$$?; $(LAB) bench --kernel 6.1 --quick || status=$$?; \
	$(CARGO) bench --locked -p nri-plugin || status=$$?; \
	$(CARGO) bench --locked -p enforcer-core || status=$$?; $(CARGO) bench --locked -p nri-enforcer-hook || status=$$?; \
	$(call churn,60) || status=$$?; exit $$status

# A thousand policies of an API server and five hundred containers that change, with the daemon as it is released: how long
# the runtime waits for it, and its memory.
churn = $(CARGO) build --locked --release -p nri-plugin && NRI_ENFORCER_DAEMON=$(abspath $(TARGET))/release/nri-enforcer \
	NRI_ENFORCER_CHURN_SECONDS=$(1) $(CARGO) test --locked -p integration-tests --test api -- --nocapture crowd
churn: setup
	$(call say,ten minutes of changes)
	@$(call churn,600)

nodes: setup
	$(call say,the reports of a thousand nodes)
	@$(CARGO) build --locked --release -p nri-plugin
	@NRI_ENFORCER_DAEMON=$(abspath $(TARGET))/release/nri-enforcer NRI_ENFORCER_NODES=1000 \
	$(CARGO) test --locked -p integration-tests --test api -- --nocapture the_reports_of_all_nodes

# Static programs, so that the image needs no base.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
image-programs: build-setup
	$(call say,building static programs)
	@$(CARGO) build-static $(HOST)
	@$(CARGO) build-hook
	@rm -rf $(TARGET)/image && mkdir -p $(TARGET)/image/root
	@cp $(TARGET)/$(HOST)/release/nri-enforcer $(TARGET)/hook/nri-enforcer-hook manifests/image/Dockerfile $(TARGET)/image
	@for program in nri-enforcer nri-enforcer-hook; do headers=$$(readelf -lW $(TARGET)/image/$$program); \
	if grep INTERP <<<"$$headers"; then echo "$$program is not static: it needs what the image has not" >&2; rm -r $(TARGET)/image; exit 1; fi; done
	@$(if $(APPARMOR),integration-tests/setup.sh parser $(TARGET)/image/root)

cluster-setup:
	$(call say,setting up what a cluster is made of)
	@integration-tests/setup.sh cluster

# Not a part of `make test`, which must not take longer.
cluster-test: cluster-setup image-programs
	$(call say,the chart in a cluster)
	@$(CARGO) test --locked -p integration-tests --test cluster -- --nocapture --test-threads=1

# Not a part of `make test`, since whoever runs it has to bring CRI-O.
crio-test:
	@[ -n "$(CRIO)" ] || { echo "crio-test: say where CRI-O is, which no package registry has: build crio and pinns of its sources (CONTRIBUTING.md)," \
	"and run make crio-test CRIO=/the/directory/with/both" >&2; exit 2; }
	@for program in crio pinns; do [ -x "$(CRIO)/$$program" ] || { echo "crio-test: $(CRIO)/$$program is no program" >&2; exit 2; }; done
	@$(MAKE) --no-print-directory build
	$(call say,CRI-O in a guest)
	@CRIO=$(abspath $(CRIO)) $(CARGO) test --locked -p integration-tests --test crio -- --nocapture --test-threads=1

# What is too long for each change.
nightly: fuzz churn nodes

# Without a fuzzer and on the stable toolchain; enforcer-core/fuzz holds the same checks for cargo-fuzz.
fuzz: build-setup
	$(call say,fuzzing)
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) FUZZ_SEED=$(or $(FUZZ_SEED),$(shell date +%s)) \
	$(CARGO) test --locked -p enforcer-core --test fuzz_smoke -- --nocapture
