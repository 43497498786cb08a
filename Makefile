# make demo · make test · make bench · make sim — each creates and fills .venv by itself.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: first-answers test-dashboard peers peers-ready canitoolcall compat compat-openai test-system test-clients gpu gpu-dry triton-report rollouts swaps probes attack optimized models-table onnx-cases chaos storm property sim demo test bench fuzz sanitize native lint types rules stubs docs site man release clean

demo: .venv/.base .venv/.native
	@$(BIN)/inferd pull smollm2
	@$(BIN)/inferd run smollm2 "Name the capital of France."

# Three processes share the tests, file by file: in their order, which has the long ones first. They start a thousand more,
# each of which would compile the sources anew where the environment forbids to keep what was compiled. At most ten that fail
# are run once more, alone, and named if they pass there (tests/whole.py): to be mended, but no reason to refuse a change.
test bench: export PYTHONDONTWRITEBYTECODE =
test: .venv/.dev .venv/.native types rules
	@$(BIN)/python tests/whole.py -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# With what is no part of inferd, for real: Ray, several nodes on this machine; and real models and ranks of torch, which take minutes. Half an hour at most; what is skipped says why.
test-system: .venv/.dev .venv/.native .venv/.client-tools
	@$(PIP) install -e . --group system -c constraints.txt
	@timeout 1800 $(BIN)/python -m pytest -n 0 --timeout 900 tests/system $(ARGS)

# What models wrote, replayed through the parsers of calls and compared with what it says: how many of canitoolcall's fixtures pass.
canitoolcall: .venv/.dev
	@[ -x .venv/canitoolcall/bin/canitoolcall ] || $(PYTHON) -m venv .venv/canitoolcall
	@.venv/canitoolcall/bin/python -m pip --disable-pip-version-check -q install canitoolcall==0.1.1
	@.venv/canitoolcall/bin/canitoolcall run --engine canitoolcall_adapter:InferdAdapter --python $(BIN)/python \
		--env PYTHONPATH=$(CURDIR)/tests/system:$(CURDIR)/kernel:$(CURDIR)/protos:$(CURDIR)/clients/python --out .venv/canitoolcall/results $(ARGS)

# The dashboard in Debian's Chromium; a part of test-system. SCREENSHOTS=folder keeps what it looks like.
test-dashboard: .venv/.dev .venv/.client-tools
	@$(PIP) install -e . --group system -c constraints.txt
	@timeout 1200 $(BIN)/python -m pytest -n 0 --timeout 600 tests/system/test_dashboard.py $(ARGS)

# How long the ways of docs/first-answers.md take from nothing, command by command. `make first-answers ARGS="--only wheel --wheel FILE"`
first-answers: .venv/bin/python
	@$(BIN)/python tests/system/first_answers.py $(ARGS)

# The clients in other languages, built by their tools and tried on a real kernel; a part of test-system. What is lacking
# is skipped and says why, or fails with INFERD_REQUIRE_CLIENTS=1. Where root runs it, Debian's packages are installed first.
CLIENT_PACKAGES := golang-go golang-google-grpc-dev golang-google-genproto-dev golang-github-golang-protobuf-1-5-dev \
	protoc-gen-go-1-5 protoc-gen-go-grpc protobuf-compiler libgrpc-java libperfmark-java libprotobuf-java libnetty-java \
	libnetty-tcnative-java libgeronimo-annotation-1.3-spec-java libguava-java liberror-prone-java libgoogle-gson-java default-jdk-headless \
	protobuf-compiler-grpc-java-plugin cmake g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc
BROWSER_PACKAGES := chromium fonts-dejavu-core
test-clients: .venv/.dev .venv/.native .venv/.client-tools
	@timeout 7200 $(BIN)/python -m pytest -n 0 --timeout 3600 tests/system/test_clients.py $(ARGS)

# A list that changes is looked at anew; a machine without a network, or without apt-get, goes on with what it has.
.venv/.client-tools: Makefile
	-@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		dpkg --status $(CLIENT_PACKAGES) $(BROWSER_PACKAGES) > /dev/null 2>&1 || { echo "installing the tools of the clients' languages and a browser"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CLIENT_PACKAGES) $(BROWSER_PACKAGES) > /dev/null; }; fi
	@touch $@

# All tests under `python -O`, which skips asserts: those of the tests count all the same, as pytest makes other code of them.
optimized: export PYTHONOPTIMIZE = 1
optimized: .venv/.dev .venv/.native
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -W ignore::pytest.PytestConfigWarning $(ARGS)

# One JSON line per figure; `make bench ONLY=served.b32` runs a part.
bench: .venv/.dev .venv/.native
	@$(BIN)/python tests/bench/main.py $(ONLY)

# This tree beside llama.cpp, OpenVINO and others, all in turn in each of ROUNDS, and the table in docs/performance.md. Each peer is
# installed as a wheel into an environment of its own under PEERS_HOME, the first time or by `make peers-ready`, which needs minutes.
# `make peers ROUNDS=2 CASES=b1,b8 ONLY="inferd,llama.cpp" ISA=avx2 SECONDS=700`; WRITE= leaves the document as it is.
# CASES=decode8k,prefill8k: long contexts; SHAPE=1b, SHAPE=3b: random weights of larger models.
peers peers-ready: export PYTHONPATH = tests/bench
peers peers-ready: .venv/.dev .venv/.native
	@$(BIN)/python tests/bench/peers/compare.py --rounds $(or $(ROUNDS),5) $(addprefix --seconds ,$(SECONDS)) --only "$(ONLY)" --cases "$(CASES)" --isa "$(ISA)" --shape "$(SHAPE)" \
		$(if $(filter peers-ready,$@),--prepare,$(addprefix --write ,$(WRITE)))
peers: WRITE ?= docs/performance.md

# The simulation for longer: a million tasks among ten thousand hosts that come and go; then a million tasks and a million
# grants of leases, on all cores. `make sim SEED=17` replays one.
sim: .venv/.dev
	@PYTHONPATH=tests/reference $(BIN)/python tests/sim/fleet.py $(if $(SEED),--seed $(SEED)) $(if $(TASKS),--tasks $(TASKS))
	@$(BIN)/python tests/sim/marathon.py $(if $(SEEDS),--seeds $(SEEDS)) $(if $(TASKS),--tasks $(TASKS)) \
		$(if $(LEASES),--leases $(LEASES)) $(if $(SEED),--seed $(SEED))

# Workers are killed, stopped and starved of memory in mid-stream, so many as DEATHS says; each stream must be as it is undisturbed.
# Kernels are killed at failpoints, too: `make chaos FROM=100 COUNT=100` kills those alone, so many of each of MODELS, with the
# store of STORE (sqlite, or the URL of a PostgreSQL database), and appends what came of it to REPORT. `make chaos ROUNDS=200` fills up the disk of a store so often,
# `make chaos CLOCKS=20` steps the clock of so many leases, `make chaos LEADERS=150` ends the kernel that leads so often, of three
# with one store in PostgreSQL, by each of three manners in turn, for each of MODELS (fake); FROM=30 LEADERS=30 REPORT=file: in parts.
# `make chaos HOSTS=250` likewise does five things to three hosts and their kernels, with networks of their own (as root, with `ip` and `tc`);
# MANNERS="down silent slow host kernel" are those, and KERNELS=1 has no standby: a kernel that is killed is started again.
# `make chaos KILLS=20` kills the workers and the kernels of a training so often, `make chaos GANGS=10` the hosts of one by several workers (as root).
chaos: .venv/.dev .venv/.native
	@$(if $(FROM)$(COUNT)$(ROUNDS)$(CLOCKS)$(LEADERS)$(HOSTS)$(KILLS)$(GANGS),,$(BIN)/python tests/chaos/ordeal.py --deaths $(or $(DEATHS),500) $(ARGS))
	@$(if $(ROUNDS),$(BIN)/python tests/chaos/full_disk.py --rounds $(ROUNDS))
	@$(if $(CLOCKS),$(BIN)/python tests/chaos/clock_ordeal.py --rounds $(CLOCKS))
	@$(if $(LEADERS),PYTHONPATH=tests/reference $(BIN)/python tests/chaos/leader_ordeal.py --rounds $(LEADERS) --from $(or $(FROM),0) \
		$(if $(MODELS),--models $(MODELS)) $(if $(REPORT),--report $(REPORT)))
	@$(if $(HOSTS),PYTHONPATH=tests/reference $(BIN)/python tests/chaos/host_ordeal.py --rounds $(HOSTS) --from $(or $(FROM),0) \
		$(if $(KERNELS),--kernels $(KERNELS)) $(if $(STREAMS),--streams $(STREAMS)) $(if $(MANNERS),--manners $(MANNERS)) $(if $(MODELS),--models $(MODELS)) $(if $(REPORT),--report $(REPORT)))
	@$(if $(KILLS),$(BIN)/python tests/chaos/training_kills.py --kills $(KILLS) $(ARGS))
	@$(if $(GANGS),PYTHONPATH=tests/reference $(BIN)/python tests/chaos/training_hosts.py --kills $(GANGS) $(if $(MODEL),--model $(MODEL)) $(ARGS))
	@$(if $(ROUNDS)$(CLOCKS)$(LEADERS)$(HOSTS)$(KILLS)$(GANGS),:,$(BIN)/python tests/chaos/kernel_ordeal.py --from $(or $(FROM),0) --count $(or $(COUNT),50) \
		--store $(or $(STORE),sqlite) --report $(or $(REPORT),.venv/chaos.jsonl) $(if $(MODELS),--models $(MODELS)))

# Attacks on a kernel, each of SECONDS by a process with a quarter of a core, all or those of ONLY; what other clients notice of it.
attack: .venv/.dev
	@$(BIN)/python tests/chaos/attack.py --seconds $(or $(SECONDS),10) $(addprefix --only ,$(ONLY))

# Can a tenant tell what another one has, by bytes or by time? IDS probes of ids, PROMPTS pairs of prompts; JUDGE=--judge fails by times, too. REPORT=file SECONDS=n: in parts.
probes: .venv/.dev
	@$(BIN)/python tests/bench/probes.py --ids $(or $(IDS),100000) --prompts $(or $(PROMPTS),1000) $(JUDGE) $(if $(REPORT),--report $(REPORT)) $(if $(SECONDS),--seconds $(SECONDS))

# So many ROLLOUTS of one model under constant load, of them BROKEN in different ways: no task may fail.
rollouts: .venv/.dev
	@$(BIN)/python tests/chaos/rollouts.py --rollouts $(or $(ROLLOUTS),50) --broken $(or $(BROKEN),10) --clients $(or $(CLIENTS),4)

# Three models of which two fit serve a random mix of TASKS (MODEL=path NEEDS_MIB=n: of that file): none may fail, nor take more memory than there is.
swaps: .venv/.dev .venv/.native
	@$(BIN)/python tests/chaos/swaps.py --tasks $(or $(TASKS),500) --clients $(or $(CLIENTS),4) --seed $(or $(SEED),1) $(if $(MODEL),--model $(MODEL) --needs-mib $(NEEDS_MIB))

# So many KEYS, each sent so often by CONNECTIONS until it is answered TIMES times, while RESTARTS kernels are killed: one task for each.
storm: .venv/.dev .venv/.native
	@$(BIN)/python tests/chaos/storm_ordeal.py --keys $(or $(KEYS),10000) --times $(or $(TIMES),20) \
		--connections $(or $(CONNECTIONS),8) --restarts $(or $(RESTARTS),20) --store $(or $(STORE),sqlite)

# Random schedules, lives of leases, damaged files, texts and shapes, so many of each as EXAMPLES says; `make test` tries few.
property: .venv/.dev
	@INFERD_EXAMPLES=$(or $(EXAMPLES),1500) $(BIN)/python -m pytest -q --timeout 7200 tests/property \
		tests/unit/test_moderation_outlet.py tests/unit/test_own_tokens.py tests/unit/test_hf_tokens.py tests/unit/test_control_tokens.py $(ARGS)

# The cases of the onnx package for every operator, and its models, by the onnx backend: how many pass, and why not.
# `make onnx-cases KERNEL=60` asks a kernel so many of them, or all, a second each.
onnx-cases: .venv/.dev
	@$(BIN)/python tests/reference/$(if $(KERNEL),onnx_kernel_cases.py $(KERNEL),onnx_cases.py)

# What the Python gRPC examples for Triton's client call, with that client in an environment outside the tree (VENV), against a
# kernel with their models, made with onnx; writes docs/compat.md.
compat: .venv/.dev .venv/.native
	@PYTHONPATH=tests/reference $(BIN)/python tests/system/compat_triton.py --venv $(or $(VENV),$(HOME)/.cache/inferd-tests/triton) $(ARGS)

# Libraries of others that speak OpenAI's and Ollama's HTTP, in an environment outside the tree (VENV), against a real gateway.
compat-openai: .venv/.dev .venv/.native
	@$(BIN)/python tests/system/compat_openai.py --venv $(or $(VENV),$(HOME)/.cache/inferd-tests/compat-openai) $(ARGS)

models-table: .venv/.dev .venv/.native
	@$(BIN)/python tests/reference/what_runs.py

# Damaged model files, and pictures and sounds, for as long as SECONDS says each, as many of ONNX as FILES says, LOADS of them by a kernel, and as many damaged tensors as REQUESTS says and config.pbtxt as CONFIGS, and streams that break as STREAMS; make sanitize: the native library under sanitizers, for SANITIZERS.
fuzz: .venv/.dev .venv/.native
	@$(BIN)/python tests/fuzz/gguf_fuzz.py $(or $(SECONDS),60)
	@$(BIN)/python tests/fuzz/media_fuzz.py $(or $(SECONDS),60)
	@$(BIN)/python tests/fuzz/onnx_fuzz.py $(or $(FILES),10000) $(or $(LOADS),300)
	@$(BIN)/python tests/fuzz/infer_fuzz.py $(or $(REQUESTS),5000)
	@$(BIN)/python tests/fuzz/oip_fuzz.py $(or $(REQUESTS),5000)
	@$(BIN)/python tests/fuzz/config_fuzz.py $(or $(CONFIGS),5000)
	@$(BIN)/python tests/chaos/broken_streams.py --streams $(or $(STREAMS),500)
	@$(BIN)/python tests/fuzz/bundle_fuzz.py $(or $(BUNDLES),10000)
sanitize: .venv/.dev
	@$(BIN)/python tests/fuzz/sanitize.py $(or $(SANITIZERS),address,undefined) $(ARGS)

# What a GPU is asked in its first hour, from this tree alone: needs torch, transformers and pytest, installs and fetches nothing.
# `make gpu PYTHON=python3 SECONDS=470 OUT=folder ONLY=limits,shape_1b`; gpu-dry does it with tiny networks on the processor.
gpu:
	@$(PYTHON) tests/gpu/gpu_hour.py --seconds $(or $(SECONDS),470) $(if $(OUT),--out $(OUT)) $(if $(ONLY),--only $(ONLY))
gpu-dry: .venv/.dev
	@$(BIN)/python tests/gpu/gpu_hour.py --dry $(if $(ONLY),--only $(ONLY))

# Every Triton kernel, compiled for GPUs that need not be here: registers, spills, shared memory. TARGETS="sm_80 sm_90 sm_100"
triton-report: .venv/.dev
	@PYTHONPATH=kernel:plugins:protos $(BIN)/python tests/gpu/triton_report.py $(TARGETS)

# The native library of the cpu backend. Installing builds it too; what follows keeps it fresh, in place.
native: .venv/bin/python
	@$(BIN)/python plugins/inferd_cpu/native/build.py

# In two parts, which `make -j2` does at once: types take most of the time.
lint: types rules

types: .venv/.dev
	@$(BIN)/mypy kernel/inferd plugins/inferd_cpu plugins/inferd_evaluation plugins/inferd_federation plugins/inferd_functions plugins/inferd_heads plugins/inferd_language plugins/inferd_onnx plugins/inferd_programs plugins/inferd_retrieval plugins/inferd_torch plugins/inferd_weights clients/python/inferd_client

rules: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/bandit -q -c pyproject.toml -r kernel plugins clients/python
	@$(BIN)/python tests/arch/audit.py
	@$(BIN)/python tests/arch/stubs.py --image .venv/inferd.binpb
	@$(BIN)/buf lint
	@$(BIN)/buf breaking .venv/inferd.binpb --path inferd_api/v1 --against protos/baseline.binpb

# The committed protobuf code; tests/arch compares it with a fresh run, byte by byte.
stubs: .venv/.dev
	@$(BIN)/python tests/arch/stubs.py --write

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "inferd needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …")'
	@echo "creating .venv"
	@$(PYTHON) -m venv .venv
	@$(PIP) install -U pip

.venv/.base: pyproject.toml .venv/bin/python
	@echo "installing inferd into .venv (about a minute)"
	@$(PIP) install -e .
	@touch $@

# What they consist of is compiled when it is imported, which most of it never is.
.venv/.dev: pyproject.toml constraints.txt .venv/.base
	@echo "installing the tools of the tests into .venv"
	@$(PIP) install --no-compile -e . --group dev -c constraints.txt  # together: the generator of the stubs pins protobuf for all
	@touch $@

# Without a compiler all but `make native` goes on with numpy; `inferd doctor` says so.
.venv/.native: $(wildcard plugins/inferd_cpu/native/*) .venv/.base
	-@$(BIN)/python plugins/inferd_cpu/native/build.py
	@touch $@

# Wheels, sdist, what they consist of, and checksums of what is committed, into OUT (dist): the same bytes each time.
# TARGETS="aarch64 none": wheels for another processor, by a cross compiler, and one without the native library, for all.
release:
	@OUT=$(or $(OUT),dist) PYTHON=$(PYTHON) TARGETS="$(TARGETS)" deploy/release/release.sh

# The reference, made from the code, into docs/reference; and all documents as pages, into build/site.
docs: .venv/.dev
	@$(BIN)/python tests/arch/reference.py --write
site: docs
	@$(PIP) install -e . --group docs -c constraints.txt
	@$(BIN)/python -m mkdocs build -q

# The manual and what shells complete by, as wheels have them, below build/share: MANPATH=build/share/man man inferd
man: .venv/.base
	@$(BIN)/python -m inferd.cli.manual build/share

clean:
	@rm -rf .venv build plugins/inferd_cpu/_native.so plugins/inferd_cpu/_native.txt
