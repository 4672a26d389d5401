package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// boot is the first process of a machine. It returns only on failure.
func boot(state string) error {
	spec, err := readSpec(filepath.Join(state, "spec.json"))
	if err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if err := joinCgroup(spec.Cgroup); err != nil {
		return err
	}
	if err := changeRoot(state, spec); err != nil {
		return err
	}
	for name, value := range spec.Sysctls {
		file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if err := awaitLink(spec.Link); err != nil {
		return err
	}
	for _, line := range spec.Setup {
		if output, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, output)
		}
	}
	return supervise(spec.Services)
}

func awaitLink(name string) error {
	for deadline := time.Now().Add(linkTimeout); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if _, err := net.InterfaceByName(name); err == nil {
			return nil
		}
	}
	return fmt.Errorf("no link %s after %s", name, linkTimeout)
}

const linkTimeout = 30 * time.Second
