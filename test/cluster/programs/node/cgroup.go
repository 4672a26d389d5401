package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// joinCgroup makes the machine's group in every hierarchy of control groups, both versions, and enters "system" in it.
func joinCgroup(path string) error {
	own := filepath.Join(path, "system")
	if _, err := os.Stat(filepath.Join(cgroups, "cgroup.controllers")); err == nil {
		return joinUnified(own)
	}
	entries, err := os.ReadDir(cgroups)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		controller := filepath.Join(cgroups, entry.Name())
		if about, err := os.Lstat(controller); err != nil || about.Mode()&os.ModeSymlink != 0 {
			continue // cpu -> cpu,cpuacct
		}
		if _, err := os.Stat(filepath.Join(controller, "cgroup.procs")); err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(controller, own), 0o755); err != nil {
			return err
		}
		if err := inheritCpuset(controller, own); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(controller, own, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// inheritCpuset fills each level from the one above: a group without processors takes no process.
func inheritCpuset(controller, path string) error {
	above := controller
	for _, part := range strings.Split(path, "/") {
		below := filepath.Join(above, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(above, file))
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(below, file), value, 0o644)
			}
			if err != nil {
				return err
			}
		}
		above = below
	}
	return nil
}

// joinUnified is for version 2: controllers are handed down level by level, to groups without processes of their own.
func joinUnified(path string) error {
	above := cgroups
	for _, part := range strings.Split(path, "/") {
		controllers, err := os.ReadFile(filepath.Join(above, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, controller := range strings.Fields(string(controllers)) {
			file := filepath.Join(above, "cgroup.subtree_control")
			if err := os.WriteFile(file, []byte("+"+controller), 0o644); err != nil && !errors.Is(err, syscall.EBUSY) {
				return err
			}
		}
		above = filepath.Join(above, part)
		if err := os.MkdirAll(above, 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(above, "cgroup.procs"), []byte("0"), 0o644)
}

const cgroups = "/sys/fs/cgroup"
