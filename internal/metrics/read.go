package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func read(metric prometheus.Metric) float64 {
	var value dto.Metric
	if err := metric.Write(&value); err != nil {
		return 0
	}
	return value.GetCounter().GetValue()
}
