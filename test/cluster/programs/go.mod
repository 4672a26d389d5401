module meltemi/test/cluster/programs

go 1.24
