package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// supervise keeps the services running and buries every process that ends on the machine.
func supervise(services []Service) error {
	if err := os.MkdirAll(controlDirectory, 0o755); err != nil {
		return err
	}
	for _, service := range services {
		if service.Held {
			if err := os.WriteFile(holdFile(service.Name), nil, 0o644); err != nil {
				return err
			}
		}
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	ticks := time.NewTicker(pollInterval)
	running := map[int]string{}
	ended := map[string]time.Time{}
	for {
		startMissing(services, running, ended)
		select {
		case <-children:
		case <-ticks.C:
		}
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
			if name, ours := running[pid]; ours {
				fmt.Printf("%s %s ended: %s\n", time.Now().Format(time.RFC3339Nano), name, ending(status))
				delete(running, pid)
				ended[name] = time.Now()
				_ = os.Remove(pidFile(name))
			}
		}
	}
}

func startMissing(services []Service, running map[int]string, ended map[string]time.Time) {
	up := map[string]bool{}
	for _, name := range running {
		up[name] = true
	}
	for _, service := range services {
		if up[service.Name] || time.Since(ended[service.Name]) < restartDelay {
			continue
		}
		if _, err := os.Stat(holdFile(service.Name)); err == nil {
			continue
		}
		pid, err := launch(service)
		if err != nil {
			fmt.Printf("%s does not start: %v\n", service.Name, err)
			ended[service.Name] = time.Now()
			continue
		}
		running[pid] = service.Name
		_ = os.WriteFile(pidFile(service.Name), []byte(strconv.Itoa(pid)), 0o644)
	}
}

func launch(service Service) (int, error) {
	path, err := exec.LookPath(service.Command[0])
	if err != nil {
		return 0, err
	}
	log, err := os.OpenFile("/var/log/"+service.Name+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer nothing.Close()
	return syscall.ForkExec(path, service.Command, &syscall.ProcAttr{
		Dir:   "/",
		Env:   append(os.Environ(), service.Env...),
		Files: []uintptr{nothing.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

func ending(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + status.Signal().String()
	}
	return "code " + strconv.Itoa(status.ExitStatus())
}

func holdFile(name string) string { return filepath.Join(controlDirectory, name+".hold") }
func pidFile(name string) string  { return filepath.Join(controlDirectory, name+".pid") }

const (
	controlDirectory = "/run/services"
	pollInterval     = 50 * time.Millisecond
	restartDelay     = 500 * time.Millisecond
)
