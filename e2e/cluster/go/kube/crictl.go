package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
)

const criSocket = "unix:///run/containerd/containerd.sock"

type imageStatus struct {
	ID          string   `json:"id"`
	RepoTags    []string `json:"repoTags"`
	RepoDigests []string `json:"repoDigests"`
	Size        string   `json:"size"`
}

// crictl answers the two questions that kind asks of a node: `crictl inspecti IMAGE` and `crictl images`.
func crictl(args []string, stdout, stderr io.Writer) int {
	ctx := context.Background()
	images, err := cri.NewRemoteImageService(ctx, criSocket, 10*time.Second, nil, false)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	switch {
	case len(args) == 2 && args[0] == "inspecti":
		found, err := images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: args[1]}, false)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		if found.Image == nil {
			fmt.Fprintln(stderr, "no such image:", args[1])
			return 1
		}
		status := imageStatus{found.Image.Id, found.Image.RepoTags, found.Image.RepoDigests, strconv.FormatUint(found.Image.Size, 10)}
		err = json.NewEncoder(stdout).Encode(map[string]imageStatus{"status": status})
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
	case len(args) == 1 && args[0] == "images":
		list, err := images.ListImages(ctx, nil)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		for _, image := range list {
			fmt.Fprintln(stdout, image.Id, image.Size, image.RepoTags)
		}
	default:
		fmt.Fprintln(stderr, "usage: crictl inspecti IMAGE | images")
		return 2
	}
	return 0
}
