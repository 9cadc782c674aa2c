# The commands: `make run`, `make test` and `make bench`. They set up what is missing on a Debian machine with Go, and are quick when run again.

ADDR ?= 127.0.0.1:5000
TOOLS := $(CURDIR)/build/tools
GOLANGCI := $(TOOLS)/golangci-lint-v2.15.0

.PHONY: digests help release lock test-upgrade run test lint bench nixpkgs options manifests build demo setup-run setup-test setup-bench sweep soak fuzz clean

help: ## Show this text
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: setup-run build demo ## Serve the demo set on ADDR (127.0.0.1:5000), or PACKAGES=channel:nixos-26.05, or PACKAGES=DIR
	@scripts/run.sh '$(ADDR)' '$(PACKAGES)'

test: setup-test demo ## Run all tests, the integration tests included, with other versions of Nix, and beside the last release
	go test -count=1 -timeout 40m ./...
	cd deploy/test && go test -count=1 ./...
	scripts/test-nix-versions.sh
	scripts/test-upgrade.sh

test-upgrade: setup-test demo ## Serve one storage by the last release and this version at once, under load
	scripts/test-upgrade.sh

lint: setup-test $(GOLANGCI) ## Check the form of Go, shell and Nix, and what the documentation names
	@unformatted=$$(gofmt -l cmd deploy integration internal middleware nixbuilder prepare-image); \
	  if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	go vet ./...
	$(GOLANGCI) run --allow-parallel-runners
	cd deploy/test && $(GOLANGCI) run --allow-parallel-runners
	scripts/vulncheck.sh
	scripts/check-docs.sh
	git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck
	git ls-files -z '*.nix' | xargs -0 -n 1 nix-instantiate --parse >/dev/null

bench: setup-bench demo ## Measure this machine, for docs/performance.md; GROUP=cold,memory RUNS=5 choose what; PEERS=zot=URL beside what is stored; GROUP=nixpkgs SET=DIR
	@go run ./integration/bench -groups '$(GROUP)' -runs '$(or $(RUNS),3)' -peers '$(PEERS)' -set '$(SET)'

soak: setup-run build demo ## Use a registry for MINUTES (60) as many clients do, and see that it stays as it was
	@go run ./integration/soak -minutes '$(or $(MINUTES),60)'

nixpkgs: ## Ask a nixpkgs in the directory SET for names of every kind, and for NixOS with the module of deploy/nixos (with a Nix that is new enough, as by scripts/with-nix.sh)
	@test -e '$(SET)/pkgs/top-level/all-packages.nix' || { echo 'SET must be a directory with nixpkgs: make nixpkgs SET=DIR'; exit 2; }
	NIXPKGS='$(abspath $(SET))' go test -tags nixpkgs -count=1 -v -run TestNixpkgs ./nixbuilder/eval ./integration

options: ## Write the reference and the JSON Schema of options, from the code
	@go run ./internal/optionsref .

manifests: ## Render the chart to deploy/kubernetes.yaml
	cd deploy/test && UPDATE=yes go test -count=1 -run TestManifest .

release: ## Make programs, their SBOMs, the image for amd64 and arm64, and checksums below build/release, from a commit; the same bytes each time
	@scripts/release.sh

lock: ## Choose the Debian packages of the released image anew: write deploy/debian.lock
	@scripts/lock-debian.sh

digests: setup-run build demo ## Print the manifest digests of twenty images, to see that a change leaves them as they are; DIR=DIR keeps the storage
	@scripts/digests.sh $(if $(DIR),'$(abspath $(DIR))')

build: build/registry ## Build build/registry

.PHONY: build/registry
build/registry:
	go build -o $@ ./cmd/registry

demo: setup-run ## Make the demo set of Debian packages in build/demo
	@examples/debian/make.sh build/demo

setup-run:
	@scripts/setup.sh run '$(PACKAGES)'

setup-test:
	@scripts/setup.sh test

setup-bench:
	@scripts/setup.sh bench

sweep: setup-test demo ## Have a fault at every storage call (some 15 minutes); FROM=30 begins at the 30th
	SWEEP='1+$(or $(FROM),1)' go test -count=1 -timeout 2h -v -run 'TestSweep' ./middleware

fuzz: ## Run each fuzz target for FUZZTIME (30s)
	@scripts/fuzz.sh '$(or $(FUZZTIME),30s)'

clean: ## Remove what was built; the Nix store stays
	rm -rf build

$(GOLANGCI):
	GOBIN='$(TOOLS)' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv '$(TOOLS)/golangci-lint' $@
