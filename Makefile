# Everything a developer runs by hand. CI runs .ci/run.
GO ?= go
BIN := bin

.PHONY: check fmt vet lint layout test race sim itest bench gen smr clean

check: fmt vet lint layout race sim ## what must pass before a push

fmt:
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); test -z "$$out" || { echo "gofmt would change: $$out"; exit 1; }

vet:
	$(GO) vet ./...

lint:
	$(GO) tool staticcheck ./...

layout:
	$(GO) test -count=1 -run 'TestLayout|TestPurity' .

test:
	$(GO) test ./...

race:
	$(GO) test -race ./...

sim: smr ## every seed twice, hashes compared
	$(BIN)/smr sim --seeds 200 --twice --json >/dev/null

itest: ## ten minutes of faults on real processes, another seed each time
	$(GO) test ./itest -count=1 -timeout 30m -v -seed 0 -minutes 10

bench: smr
	$(BIN)/smr bench --json

smr:
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/smr ./cmd/smr

# Generated code is checked in; gen needs protoc on the PATH (Debian: protobuf-compiler).
PROTOS := $(shell git ls-files -co --exclude-standard '*.proto')
gen:
	@mkdir -p $(BIN)/gen
	GOBIN=$(abspath $(BIN)/gen) $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto connectrpc.com/connect/cmd/protoc-gen-connect-go
	for p in $(PROTOS); do \
	  PATH="$(abspath $(BIN)/gen):$$PATH" protoc -I . --go_out=. --go_opt=module=github.com/atlas-smr/smr \
	    $$(case $$p in *admin*) echo "--connect-go_out=. --connect-go_opt=module=github.com/atlas-smr/smr";; *) echo "--go-vtproto_out=. --go-vtproto_opt=module=github.com/atlas-smr/smr,features=marshal+unmarshal+unmarshal_unsafe+size";; esac) $$p || exit 1; \
	done

clean:
	rm -rf $(BIN)
