package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// changeRoot makes the machine's own root: the root below with a layer of STATE over it, /var kept in STATE (container
// storage cannot lie on an overlay), and /run and /tmp empty at every start.
func changeRoot(state string, spec Spec) error {
	if err := mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := filepath.Join(state, "root")
	upper, work, variable := filepath.Join(state, "upper"), filepath.Join(state, "work"), filepath.Join(state, "var")
	for _, directory := range []string{root, upper, work, variable, filepath.Join(variable, "log"), filepath.Join(variable, "tmp")} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(variable, "run")); err != nil && !os.IsExist(err) {
		return err
	}
	layers := fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", upper, work)
	if err := mount("overlay", root, "overlay", 0, layers); err != nil {
		return err
	}
	inside := func(path string) string { return filepath.Join(root, path) }
	steps := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"/sys/fs/cgroup", "/sys/fs/cgroup", "", syscall.MS_BIND | syscall.MS_REC, ""},
		{"/dev", "/dev", "", syscall.MS_BIND | syscall.MS_REC, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", 0, "mode=1777"},
		{variable, "/var", "", syscall.MS_BIND, ""},
	}
	for _, step := range steps {
		if err := mount(step.source, inside(step.target), step.kind, step.flags, step.data); err != nil {
			return err
		}
	}
	for _, bind := range spec.Binds {
		if err := bindInto(bind.From, inside(bind.To)); err != nil {
			return err
		}
	}
	for file, value := range spec.Pinned {
		if err := pin(inside(file), inside("/run/pinned"), value); err != nil {
			return err
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount of the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// As on a real node: what is mounted under a directory is seen by the containers that have the directory.
	return mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, "")
}

func bindInto(from, to string) error {
	about, err := os.Stat(from)
	if err != nil {
		return err
	}
	if about.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(to), 0o755); err == nil {
		var file *os.File
		if file, err = os.OpenFile(to, os.O_CREATE, 0o755); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return err
	}
	return mount(from, to, "", syscall.MS_BIND, "")
}

// pin puts a file of ours over a setting of the whole machine, where the kernel has that setting.
func pin(file, directory, value string) error {
	if _, err := os.Stat(file); os.IsNotExist(err) {
		return nil
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	own := filepath.Join(directory, filepath.Base(file))
	if err := os.WriteFile(own, []byte(value+"\n"), 0o644); err != nil {
		return err
	}
	return mount(own, file, "", syscall.MS_BIND, "")
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := syscall.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}
