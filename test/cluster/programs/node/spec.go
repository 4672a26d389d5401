package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Spec says what one machine of a cluster is. The harness writes it to STATE/spec.json.
type Spec struct {
	Hostname string `json:"hostname"`
	// Binds are directories or files of the machine below us that are seen at another path inside.
	Binds []Bind `json:"binds"`
	// Sysctls are names under /proc/sys with dots, of the network namespace.
	Sysctls map[string]string `json:"sysctls"`
	// Pinned are files under /proc/sys that belong to the whole machine: inside they read as given here, and what is
	// written to them stays inside.
	Pinned map[string]string `json:"pinned"`
	// Cgroup is a path below the root of every controller. Services run in its child "system".
	Cgroup string `json:"cgroup"`
	// Link is the network link that the harness hands in; Setup runs when it is there.
	Link     string     `json:"link"`
	Setup    [][]string `json:"setup"`
	Services []Service  `json:"services"`
}

type Bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Service is a daemon that is started again whenever it ends, unless /run/services/NAME.hold exists.
type Service struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	Env     []string `json:"env"`
	// Held services start with the hold in place.
	Held bool `json:"held"`
}

func readSpec(file string) (Spec, error) {
	var spec Spec
	text, err := os.ReadFile(file)
	if err != nil {
		return spec, err
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return spec, fmt.Errorf("%s: %w", file, err)
	}
	if spec.Hostname == "" || spec.Cgroup == "" || filepath.IsAbs(spec.Cgroup) {
		return spec, fmt.Errorf("%s: hostname and a relative cgroup are needed", file)
	}
	return spec, nil
}
